"""On another device everything runs and gives the CPU's own numbers: operators, solvers, restoration, training.

`pytest tests/elsewhere_cases.py` runs them alone; `tests/test_elsewhere.py`, as a part of the tests, in a process of their own.
"""

import copy
from functools import partialmethod
from types import SimpleNamespace

import pytest
import torch
from taming.modules.discriminator.model import NLayerDiscriminator
from torch import Tensor

from data.formats import Image, Meta
from data.ranges import DEPTH_8
from data.seeding import Noise
from ldm import config as configuration
from ldm import resize, spectra
from ldm.denoiser import Prior
from ldm.latent import LatentPatchPrior
from ldm.sampling import DDIM, Heun
from ldm.training.autoencoder import Autoencoder
from ldm.training.bottleneck import Codebook
from ldm.training.crops import Crops
from ldm.training.diffusion import PatchDiffusion, PixelDiffusion
from ldm.training.latent_diffusion import LatentDiffusion, LatentPatchDiffusion
from ldm.training.optimisation import AdamW
from ldm.training.randomness import Draws
from solvers.codps import CoDPSPlus
from solvers.daps import DAPS
from solvers.dps import DPS
from solvers.operators import CT, CartesianMRI, RandomInpainting, SuperResolution
from solvers.operators.base import LinearOperator
from solvers.padis import PaDIS
from solvers.pnp import PnP
from solvers.problem import Gaussian, measure
from solvers.psld import PSLD
from solvers.resample import ReSample
from solvers.run.cells import Cell, Run
from solvers.run.module import Reconstruction
from solvers.run.scans import Scan
from solvers.solver import check
from tests import tiny
from tests.elsewhere import DEVICE, Elsewhere
from tests.operator_list import LINEAR, NONLINEAR, Case
from tests.test_matrix import IDS, NOISY, OPERATORS, PRIORS, SHAPE, SOLVERS

SIGMA_Y = 0.05
ROUNDED = 1e-12  # networks go by other kernels there: a thousand roundings of float64


def same(there: Tensor | None, here: Tensor | None) -> None:
    """One on each device, and equal to the bit."""
    if here is None:
        assert there is None
    else:
        assert isinstance(there, Elsewhere) and not isinstance(here, Elsewhere)
        torch.testing.assert_close(there.held, here, rtol=0, atol=0, equal_nan=True)


def near(there: Tensor, here: Tensor, error: float = ROUNDED) -> None:
    """Both on the CPU, and equal to this error."""
    assert not isinstance(there, Elsewhere)
    torch.testing.assert_close(there, here, rtol=error, atol=error)


def test_the_device_takes_no_tensors_of_another():
    x, here = torch.arange(6.0).reshape(2, 3).to(DEVICE), torch.ones(2, 3)
    for mixed in (
        lambda: x + here,
        lambda: here @ x.T,
        lambda: torch.cat([x, here]),
        lambda: x.clone().add_(here),
    ):
        with pytest.raises(RuntimeError, match="all tensors must be on one device"):
            mixed()
    with pytest.raises(RuntimeError):
        x.numpy()
    same(x + torch.tensor(1.0), here.new_tensor([[1, 2, 3], [4, 5, 6]]))
    same(torch.zeros(2, 3, device=DEVICE), torch.zeros(2, 3))
    assert x.cpu().tolist() == x.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("case", LINEAR + NONLINEAR, ids=lambda case: case.name)
def test_operators(case: Case):
    operator = case.drawn()
    x, s2, v = (
        torch.randn(3, *case.shape, generator=torch.Generator().manual_seed(0)).double(),
        *torch.rand(2, 3).double(),
    )
    y = operator.forward(x)
    r = y + 0.1
    calls = [
        lambda at: operator.forward(at(x)),
        lambda at: operator.select([2, 0]).forward(at(x[[2, 0]])),
        lambda at: operator.measured(at(y)),
        lambda at: operator.restrict(at(y)),
        lambda at: operator.baseline(at(y), case.shape),
        lambda at: operator.linearize(at(x)).forward(at(x)),
        lambda at: operator.linearize(at(x)).adjoint(at(y)),
    ]
    if isinstance(operator, LinearOperator):
        calls += [
            lambda at: operator.adjoint(at(y)),
            lambda at: operator.gram(at(y)),
            lambda at: operator.solve(at(r), 0.1, 2.0),
            lambda at: operator.solve(at(r), at(s2), at(v)),
            lambda at: operator.correct(at(r), at(s2), at(v)),
        ]
    for call in calls:
        same(call(lambda tensor: tensor.to(DEVICE)), call(lambda tensor: tensor))


SOME = ("resample", "psld", "daps", "pnp", "padis")  # on every prior; the others on one
FEW = [(s, "super-resolution", p) for s in SOLVERS for p in PRIORS if s in SOME or p == "pixel"]
FEW += [("daps", o, "pixel") for o in OPERATORS if o != "nonlinear blur"]  # a network, 20 s
ALL = [(s, o, p) for s in SOLVERS for o in OPERATORS for p in PRIORS]


@pytest.mark.parametrize(
    "solver, operator, prior",
    [
        pytest.param(*cell, marks=[] if cell in FEW else pytest.mark.slow, id="-".join(cell))
        for cell in ALL
    ],
)
def test_solvers(solver: str, operator: str, prior: str):
    def run(device: torch.device | str) -> Tensor:
        noise, known = Noise(IDS, "noise"), copy.deepcopy(PRIORS[prior]).to(device)
        x0 = (0.5 * noise.normal((len(IDS), *SHAPE), torch.float64)).clamp(-1, 1).to(device)
        problem = measure(OPERATORS[operator].draw(SHAPE, noise), x0, NOISY, noise)
        check(SOLVERS[solver], problem, known)
        for step in SOLVERS[solver](problem, known, Noise(IDS, "solver")):
            problem.residual(step.x0)
        return step.x0

    try:
        here = run("cpu")
    except ValueError:
        return  # which cells refuse, and why, is tests/test_matrix.py's business
    same(run(DEVICE), here)


ROWS = [
    spectra.row(s, (0.1 * s * spectra.KNOTS**-1).tolist(), [1] * len(spectra.KNOTS))
    for s in (0.02, 0.5, 10.0)
]
DIFFUSIONS = {
    "pixel": (tiny.pixel, PixelDiffusion),
    "latent": (tiny.latent, LatentDiffusion),
    "patch": (tiny.patch, PatchDiffusion),
}


def known(kind: str) -> Prior:
    """A tiny prior of random weights that knows how it errs."""
    torch.manual_seed(0)
    prior = configuration.build(DIFFUSIONS[kind][0]())
    prior.variances = ROWS
    if kind == "latent":
        prior.image_variances = ROWS
    return prior


RESTORING = {
    "resample": ReSample(steps=4, skip=2, newton=1, cg=2),
    "resample_fast": ReSample(steps=4, skip=2, sigma_latent=0.0),
    "psld": PSLD(steps=2),
    "daps": DAPS(steps=3, sigma_max=None),
    "pnp": PnP(steps=3),
    "codps_plus": CoDPSPlus(steps=3),
    "dps": DPS(steps=2),
    "padis": PaDIS(steps=3, sigma_max=None),
}
KINDS = {"psld": ["latent"], "codps_plus": ["pixel", "patch"], "padis": ["pixel", "patch"]}
TASKS = {
    "sr": SuperResolution(2),
    "inpainting": RandomInpainting(),
    "ct": CT(4, bins=20),
    "mri": CartesianMRI(acceleration=2),
}


def scans(height: int, width: int, count: int = 2) -> list[Scan]:
    pixels = Noise([str(i) for i in range(count)], "noise").uniform((count, 1, height, width)) - 0.5
    return [Scan(str(i), p, Image(p, Meta("png")), DEPTH_8) for i, p in enumerate(pixels)]


CELLS = [
    (s, k, t)
    for s in RESTORING
    for k in KINDS.get(s, DIFFUSIONS)
    for t in TASKS
    if t == "sr" or s == "daps"
]


QUICK = {("daps", "pixel", "sr"), ("daps", "pixel", "mri"), ("pnp", "pixel", "sr")}
QUICK |= {("resample_fast", "latent", "sr")}


@pytest.mark.parametrize(
    "solver, kind, task",
    [pytest.param(*cell, marks=[] if cell in QUICK else pytest.mark.slow) for cell in CELLS],
)
def test_restoration(solver: str, kind: str, task: str):
    """predict_step in whole, of images of the prior's size, smaller ones, and larger ones in tiles. Conjugate gradients make a
    rounding of the network as large as what they leave open, which is 0.01 sigma_y.
    """
    sizes = [(16, 16), (14, 12)] + ([] if kind == "patch" else [(24, 16)])
    for height, width in sizes if task == "sr" else sizes[:1]:
        found = []
        for device in ("cpu", DEVICE):
            one = Cell("a", TASKS[task], Gaussian(SIGMA_Y), RESTORING[solver], draws=2)
            run = Run(rows=4, precision="64-true")
            module = Reconstruction(known(kind), [one], run, resize.fit).to(device)
            found.append(module.predict_step(scans(height, width), 0))
        for here, there in zip(*found):
            assert here.record["status"] == there.record["status"] == "ok"
            assert there.record["residual"] == pytest.approx(here.record["residual"], abs=0.01)
            for name in ("image", "draws", "y"):  # on the CPU again, for the writer
                near(getattr(there, name), getattr(here, name), 0.01 * SIGMA_Y)


@pytest.mark.parametrize("sampler", [DDIM(3), Heun(3)], ids=lambda sampler: type(sampler).__name__)
@pytest.mark.parametrize("kind", DIFFUSIONS)
def test_draws_from_the_prior(sampler, kind: str):
    images = []
    for device in ("cpu", DEVICE):
        run = Run(precision="64-true")
        module = Reconstruction(known(kind), [Cell("a", None, None, sampler)], run, resize.fit).to(
            device
        )
        images.append([outcome.image for outcome in module.predict_step(scans(1, 1), 0)])
    for here, there in zip(*images):
        near(there, here)


def trainable(kind: str):
    optimiser, crops = AdamW(1e-3), Crops({8: 1.0}, per_image=2)
    torch.manual_seed(0)
    if kind == "autoencoder":
        second = {"discriminator": NLayerDiscriminator(1, 8, 1), "adversarial_start": 0}
        return Autoencoder(
            configuration.build(tiny.STAGE),
            Codebook(16, from_data=0),
            optimiser,
            {0: 16},
            per_image=2,
            **second,
        )
    if kind == "patches of latents":
        patches, first = configuration.build(tiny.patch(8, 3)), configuration.build(tiny.STAGE)
        return LatentPatchDiffusion(
            LatentPatchPrior(patches, first), optimiser, crops=Crops({4: 1.0}, per_image=2)
        )
    return DIFFUSIONS[kind][1](
        known(kind), optimiser, **({"crops": crops, "flip": True} if kind == "patch" else {})
    )


class Drawn(Draws):
    """Training draws on its own device; this one has no generator, so it is given the CPU's numbers."""

    def __init__(self, seed, rank, step, part=0, device="cpu"):
        super().__init__(seed, rank, step, part)
        self.there = torch.device(device)

    def moved(self, name: str, *shape) -> Tensor:
        self.device = torch.device("cpu")
        drawn = getattr(Draws, name)(self, *shape).to(self.there)
        self.device = self.there
        return drawn

    normal, uniform, below = (
        partialmethod(moved, "normal"),
        partialmethod(moved, "uniform"),
        partialmethod(moved, "below"),
    )


@pytest.mark.parametrize("kind", ["autoencoder", *DIFFUSIONS, "patches of latents"])
def test_training(kind: str, monkeypatch):
    """Losses, gradients, what a validation finds, and the pictures, in float32 as training has it."""
    monkeypatch.setattr("ldm.training.diffusion.Draws", Drawn)
    monkeypatch.setattr("ldm.training.autoencoder.Draws", Drawn)
    found = []
    for device in ("cpu", DEVICE):
        module, said = trainable(kind).to(device), {}
        module.trainer = SimpleNamespace(
            global_step=0, global_rank=0, training=True, sanity_checking=False
        )
        module.log = lambda name, value, said=said, **_: said.update(
            {name: torch.as_tensor(value).cpu()}
        )
        module.log_dict = lambda values, log=module.log, **_: [log(*one) for one in values.items()]
        module.all_gather = lambda x: x
        image = torch.stack([scan.pixels for scan in scans(16, 16)]).to(device)
        batch = {
            "image": image,
            "image_id": ["0", "1"],
            "label": torch.zeros(2, dtype=torch.long, device=device),
        }
        loss = module.train().training_step(batch, 0)
        loss.backward()
        said["gradient"] = sum(
            p.grad.square().sum() for p in module.parameters() if p.grad is not None
        ).cpu()
        module.eval()
        with torch.no_grad():
            module.validation_step(batch, 0)
            module.on_validation_epoch_end()
            said |= {name: rows.cpu() for name, rows in module.pictures(batch).items()}
        found.append((said, getattr(getattr(module, "prior", None), "variances", None)))
    (here, errs), (there, also) = found
    assert here.keys() == there.keys()
    for name, value in here.items():
        near(there[name], value, 1e-4)  # a thousand roundings
    assert also == (errs and [pytest.approx(row, rel=1e-3) for row in errs])
