"""The default path, V by frequency and place as training measured it, against its box in NumPy: the same noise, float64.

Conjugate gradients run to the end here: what they leave open by default (a hundredth of the noise, in `PnP` ten) is switched
off, so that 1e-10 is a matter of rounding alone, as in test_solvers_boxes.py.
"""

from functools import partial

import measured_boxes as boxes
import numpy as np
import pytest
import torch
from analytic import BEND, Dense, correlated, latent
from test_solvers_boxes import Tape

from data.seeding import Noise
from ldm.sampling import ve_levels, vp_levels
from solvers.beliefs import Isotropic, Spectral
from solvers.codps import CoDPSPlus
from solvers.daps import DAPS
from solvers.operators import CT, BoxInpainting, CartesianMRI, GaussianBlur, SuperResolution
from solvers.operators.volume import Slicewise
from solvers.padis import PaDIS
from solvers.pnp import PnP
from solvers.problem import Gaussian, Problem
from solvers.resample import ReSample
from solvers.solver import Chain

SHAPE, SIGMA_Y, IDS = (1, 6, 6), 0.05, ("a", "b", "c")
A = torch.randn(9, 36, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / 6
LEVELS = (0.05, 0.4, 3.0)
FALL = 1 / (1 + (boxes.KNOTS / 0.1) ** 2)  # of the errors towards high frequencies
ROWS = tuple(
    (s, tuple(4 * s**2 / (s**2 + 1) * FALL**power)) for s, power in zip(LEVELS, (0.3, 0.6, 1.0))
)
FLAT = tuple((s, 0.3 * s**2 / (s**2 + 1)) for s in LEVELS)
ERROR = 0.002


def pixel(vp: bool):
    prior = correlated(SHAPE, vp=vp)
    prior.variances = [[level, *variances] for level, variances in ROWS]
    return prior


def latents():
    prior = latent(SHAPE, error_variance=ERROR)
    prior.variances = [list(row) for row in FLAT]
    prior.image_variances = [[level, *variances] for level, variances in ROWS]
    return prior


class Closed(Dense):
    gaps = False


def problem(ids=IDS, operator=Dense) -> Problem:
    y = Noise(ids, "noise").normal((len(ids), len(A)), torch.float64)
    return Problem(y, operator(A, SHAPE), Gaussian(SIGMA_Y), tuple(ids))


def world(prior, image_id) -> boxes.Measured:
    y, tape, d = problem((image_id,)).y[0].numpy(), Tape(image_id), 36
    more = dict(size=SHAPE[1:], rows=ROWS, v=FLAT)
    if prior.kind == "latent":
        order = (
            torch.nn.functional.pixel_shuffle(torch.arange(36.0).reshape(1, 4, 3, 3), 2)
            .flatten()
            .long()
            .numpy()
        )
        return boxes.Measured(
            A.numpy(), y, SIGMA_Y, np.eye(d), np.zeros(d), tape, order, BEND, **more
        )
    mixture = prior.denoiser.denoiser if prior.alpha_bar is not None else prior.denoiser
    return boxes.Measured(
        A.numpy(),
        y,
        SIGMA_Y,
        mixture.covariances[0].numpy(),
        mixture.means[0].numpy(),
        tape,
        **more,
    )


VP, EDM, LATENT = pixel(True), pixel(False), latents()
EDGES = dict(sigma_min=0.02, sigma_max=5.0)
CASES = {
    "daps": (EDM, DAPS(steps=8, **EDGES), partial(boxes.daps, sigmas=ve_levels(EDM, 8, 0.02, 5.0))),
    "daps latent": (
        LATENT,
        DAPS(steps=6, **EDGES),
        partial(boxes.daps, sigmas=ve_levels(LATENT, 6, 0.02, 5.0)),
    ),
    "pnp": (EDM, PnP(steps=12), partial(boxes.pnp, sigmas=np.geomspace(1.5, 0.02, 12))),
    "pnp latent": (LATENT, PnP(steps=10), partial(boxes.pnp, sigmas=np.geomspace(3.0, 0.04, 10))),
    "codps+": (VP, CoDPSPlus(steps=10), partial(boxes.codps_plus, levels=vp_levels(VP, 10))),
    "codps+ ddim": (
        VP,
        CoDPSPlus(steps=10, eta=0.3),
        partial(boxes.codps_plus, levels=vp_levels(VP, 10), eta=0.3),
    ),
    "padis": (
        EDM,
        PaDIS(steps=8, spacing="karras", **EDGES),
        partial(boxes.padis, sigmas=ve_levels(EDM, 8, 0.02, 5.0), sigma_max=EDM.sigma_max),
    ),
    "resample": (
        VP,
        ReSample(steps=10, skip=2),
        partial(
            boxes.resample,
            levels=vp_levels(VP, 10),
            gamma=40,
            skip=2,
            sigma_pixel=6.6,
            sigma_max=VP.sigma_max,
        ),
    ),
    "resample latent": (
        LATENT,
        ReSample(steps=10, skip=2, sigma_latent=0.0),
        partial(
            boxes.resample,
            levels=vp_levels(LATENT, 10),
            gamma=40,
            skip=2,
            sigma_pixel=6.6,
            sigma_max=LATENT.sigma_max,
            error=ERROR,
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_default_is_its_box(name, monkeypatch):
    same_as_its_box(*CASES[name], problem(), monkeypatch)


def test_draws_are_white_for_longer_where_y_leaves_nothing_open(monkeypatch):
    """Blurs and CT all around."""
    prior, solver, box = CASES["daps"]
    closed = problem(operator=Closed)
    same_as_its_box(prior, solver, partial(box, coloured=0.05), closed, monkeypatch)


def same_as_its_box(prior, solver, box, given, monkeypatch):
    monkeypatch.setattr(Spectral, "accuracy", 1e-13)
    monkeypatch.setattr("solvers.pnp.COARSE", 1e-13)
    *_, last = solver(given, prior, Noise(IDS, "solver"))
    for row, image_id in zip(last.x0.flatten(1).numpy(), IDS):
        expected = box(world(prior, image_id))
        np.testing.assert_allclose(
            row, expected, rtol=0, atol=1e-10 * max(1, np.abs(expected).max())
        )


@pytest.mark.parametrize(
    "operator, noisy, quiet",
    [
        (GaussianBlur(5, 1.0), Isotropic, Isotropic),
        (Slicewise(GaussianBlur(5, 1.0)), Isotropic, Isotropic),
        (SuperResolution(2), Spectral, Isotropic),
        (CT(20), Isotropic, Isotropic),
        (CT(20, arc=120.0), Spectral, Isotropic),
        (CT(40, "fan", arc=360.0), Isotropic, Isotropic),
        (CartesianMRI(acceleration=2), Spectral, Isotropic),
        (BoxInpainting(3), Spectral, Spectral),
    ],
)
def test_pnp_believes_what_was_measured_where_y_leaves_something_open(operator, noisy, quiet):
    """And takes the first paper's number under blurs, and where it adds no noise."""
    shape = (1, 2, 6, 6) if isinstance(operator, Slicewise) else SHAPE
    bound = operator.draw(shape, Noise(("a",), "mask"))
    y = bound.forward(torch.zeros(1, *shape, dtype=torch.float64))
    chain = Chain(Problem(y, bound, Gaussian(SIGMA_Y), ("a",)), EDM, Noise(("a",), "solver"), [1.0])
    beliefs = [PnP().belief(chain, torch.zeros(1, *SHAPE).double(), s) for s in (0.5, 0.05)]
    assert [type(belief) for belief in beliefs] == [noisy, quiet]
