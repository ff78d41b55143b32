"""What is known of a denoiser's errors, by frequency and place, as a covariance: its algebra, and what solvers make of it."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import palimpsest as P
from data import dataset, manifest
from data.seeding import Noise
from ldm import checkpoints, schedule, spectra
from ldm.denoiser import Prior
from ldm.latent import LatentPrior
from ldm.patch import PatchPrior
from ldm.sampling import full
from ldm.training.diffusion import PixelDiffusion
from ldm.training.latent_diffusion import LatentDiffusion
from ldm.training.optimisation import AdamW
from solvers.beliefs import Spectral
from solvers.codps import CoDPSPlus
from solvers.condition import conditioned
from solvers.contrast import CONTRAST, contrast
from solvers.daps import DAPS
from solvers.discrepancy import discrepancy
from solvers.operators import CartesianMRI, HighDynamicRange, Inpainting, SuperResolution
from solvers.operators.mri import MRI
from solvers.operators.weighted import WeightedLinear
from solvers.operators.wrapper import Seen
from solvers.padis import PaDIS
from solvers.problem import Clean, Gaussian, measure
from solvers.published.daps import DAPSHMC
from solvers.resample import ReSample
from tests.analytic import Shuffle, Table
from tests.test_variances import S0, Smooth, Wiener, noise, smooth, validated

MODELS = Path(__file__).parents[1] / "models"

PRIORS = {"pixel": Prior(Wiener(), (1, 12, 10)), "patch": PatchPrior(Wiener(), 1, 8, 3)}


def hole(height: int, width: int, size: int) -> Inpainting:
    """All is measured but a square in the middle."""
    mask = torch.ones(height, width)
    mask[(height - size) // 2 :, (width - size) // 2 :][:size, :size] = 0
    return Inpainting(mask)


def spectral(prior: Prior, density: float = 0.3, estimate: torch.Tensor | None = None) -> Spectral:
    """A covariance of errors that fade with frequency, around an estimate; without one, around a flat one."""
    rows = [spectra.row(1.0, (density * spectra.KNOTS**-1).tolist(), [1] * len(spectra.KNOTS))]
    prior.variances = rows
    image = torch.zeros(1, *prior.shape, dtype=torch.float64) if estimate is None else estimate
    return Spectral.about(image, prior.density(1.0), prior)


class Padded(Prior):
    """Whose states have a border of two pixels."""

    def pad(self, x, value=0.0):
        return nn.functional.pad(x, (2, 2, 2, 2), value=value)

    def crop(self, x):
        return x[..., 2:-2, 2:-2]


def edged(*shape: int) -> torch.Tensor:
    """[1,...] an image whose left half is flat and whose right half is not."""
    image = torch.randn(1, *shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    image[..., : shape[-1] // 2] = 0
    return image


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("kind", PRIORS)
def test_a_covariance_of_errors_is_one(kind, flat):
    """Symmetric, the square of its half, around a flat estimate of the variance that was measured, and nothing in the border."""
    prior = PRIORS[kind]
    V = spectral(prior, estimate=None if flat else edged(*prior.shape))
    n = math.prod(prior.shape)
    unit = torch.eye(n, dtype=torch.float64).reshape(n, *prior.shape)
    dense, half = (f(unit).reshape(n, n) for f in (V.apply, V.root))
    torch.testing.assert_close(dense, dense.T)
    torch.testing.assert_close(half @ half, dense)
    inside = prior.crop(unit.reshape(n, *prior.shape)).flatten(1).any(1)
    expected = torch.full((int(inside.sum()),), prior.variance(1.0)).double()
    assert torch.allclose(dense.diag()[inside], expected) == flat
    assert not dense.diag()[~inside].any()


def test_errors_lie_where_contrast_is():
    """White ones of variance 0.3: the deviation goes with the fourth root of local contrast, and its mean square is kept."""
    image = edged(1, 32, 64)
    V = Spectral.about(torch.cat([image, 5 * image]), torch.full((32, 64), 0.3))
    variance = V.apply(
        torch.ones(2, 1, 32, 64, dtype=torch.float64)
    )  # of white errors V is a diagonal
    torch.testing.assert_close(variance.mean((1, 2, 3)), torch.full((2,), 0.3, dtype=torch.float64))
    torch.testing.assert_close(
        variance[0], variance[1]
    )  # five times the contrast everywhere is no news
    windows = nn.functional.unfold(image, 9)[0]  # whole ones, around row 4 and column 4 onwards
    local = windows.var(0, correction=0).reshape(24, 56)
    found = variance[0, 0, 4:-4, 4:-4]
    textured = local > 0.1
    ratio = found[textured] / local[textured] ** 0.25
    torch.testing.assert_close(
        ratio / ratio.mean(), torch.ones_like(ratio), rtol=1e-3, atol=0
    )  # 1e-4 keeps flat parts above 0
    assert found[local == 0].max() < found[textured].min() / 2


@pytest.mark.slow
@torch.no_grad()
def test_the_shipped_prior_errs_where_contrast_is():
    """At least as unevenly as V has it: what V takes to be possible where contrast is low must not be too little."""
    prior = checkpoints.load(MODELS / "demo-patch").eval()
    truth = torch.stack(
        [dataset.load(row, channels=1)[0] for row in manifest.read(MODELS / "demo-data/test.csv")]
    )
    draws = Noise([str(i) for i in range(len(truth))], "noise")
    x = prior.pad(truth, -1.0)
    x = x + draws.like(x)  # sigma 1
    m = prior.crop(prior.denoise(x, full(1.0, x), draws.of("offset")))
    where, wrong = contrast(m).flatten(), (m - truth).square().flatten()
    fifths = where.argsort().chunk(5)
    low, high = (
        (float(where[i].mean()), float(wrong[i].mean().sqrt())) for i in (fifths[0], fifths[-1])
    )
    power = math.log(high[1] / low[1]) / math.log(high[0] / low[0])
    print(
        f"contrast {low[0]:.2f} to {high[0]:.2f}, error {low[1]:.3f} to {high[1]:.3f}: power {power:.2f}"
    )
    assert power > CONTRAST


@pytest.mark.parametrize("size", [(8, 6), (7, 5), (6, 9)], ids=repr)
@pytest.mark.parametrize("seen", ["pixels", "a padded state", "two images, each with its weight"])
def test_k_space_of_one_coil_has_an_inverse_under_errors_by_frequency(size, seen):
    """The preconditioner is the dense inverse where errors are as large anywhere; -k is measured of some k and not of others."""
    mask = torch.arange(size[0] * size[1]).reshape(size) % 3 > 0
    drawn = MRI(mask[None, None].double()).draw((1, *size), Noise(["a"], "mask"))
    prior, state = Prior(Wiener(), (1, *size)), torch.zeros(2, 1, *size, dtype=torch.float64)
    if seen == "two images, each with its weight":
        drawn = WeightedLinear(drawn, torch.tensor([0.5, 3.0]).reshape(2, 1, 1, 1))
    if seen == "a padded state":
        prior = Padded(Wiener(), (1, size[0] + 4, size[1] + 4))
        drawn, state = Seen(drawn, prior.crop, prior.pad), prior.pad(state)
    belief = spectral(prior, estimate=state)
    y = drawn.restrict(torch.randn(2, 2, *size, dtype=torch.float64))
    solve = drawn.inverse_under(belief.density, torch.tensor(0.01, dtype=torch.float64))
    back = 0.01 * solve(y) + drawn.forward(belief.apply(drawn.adjoint(solve(y))))
    torch.testing.assert_close(back, y, rtol=0, atol=1e-12)


@pytest.mark.parametrize("operator", [hole(12, 10, 4), SuperResolution(2)], ids=["mask", "SR"])
def test_without_noise_y_is_met_however_little_is_doubted(operator):
    """To the root of the rounding error, at which conjugate gradients stop (`condition.precision`)."""
    prior = Prior(Wiener(), (1, 12, 10))
    belief = spectral(prior, 1e-6, torch.zeros(1, 1, 12, 10))
    x = torch.randn(1, 1, 12, 10, generator=torch.Generator().manual_seed(7))
    problem = measure(operator, x, Clean(), Noise(["a"], "noise"))
    left = problem.y - problem.operator.forward(conditioned(belief, problem).x)
    assert left.norm() < torch.finfo(x.dtype).eps ** 0.5 * problem.y.norm()


def test_k_space_is_met_in_few_steps_where_errors_lie_somewhere(monkeypatch):
    """At the mean it has without that inverse, in a third of the steps at most."""
    shape, noise = (1, 64, 64), Noise(["a"], "noise")
    belief = spectral(Prior(Wiener(), shape), 1.0, edged(*shape))
    operator = CartesianMRI(acceleration=4.0, centre=0.1).draw(shape, noise.of("mask"))
    problem = measure(operator, edged(*shape) * 0.9, Gaussian(0.01), noise)
    quick = conditioned(belief, problem, accuracy=1e-6)
    monkeypatch.setattr(MRI, "inverse_under", lambda *_: None)
    slow = conditioned(belief, problem, accuracy=1e-6)
    torch.testing.assert_close(quick.x, slow.x, rtol=0, atol=1e-6)
    assert 3 * quick.iterations < slow.iterations


def test_errors_that_lie_somewhere_are_undone_there():
    """Who knows where errors lie makes more of y than who takes them to be anywhere, the spectrum and the size being the same."""
    prior, ids = Prior(Wiener(), (1, 64, 64)), [str(i) for i in range(8)]
    truth = torch.cat([edged(1, 64, 64)] * 8)
    V = spectral(prior, 1e-3, truth)
    m = truth + V.root(noise(8, 1, 64, 64).double() / S0)
    problem = measure(SuperResolution(4), truth, Gaussian(0.02), Noise(ids, "noise"))
    anywhere = Spectral(m, V.density)
    here, there = (
        float((conditioned(v.around(m), problem).x - truth).square().mean()) for v in (V, anywhere)
    )
    assert here < there


def test_the_update_under_a_covariance_of_errors_is_the_dense_one():
    prior = PRIORS["pixel"]
    V, ids = spectral(prior, estimate=edged(1, 12, 10)), Noise(["a"], "noise")
    truth = torch.randn(
        1, 1, 12, 10, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    )
    problem = measure(hole(12, 10, 4), truth, Gaussian(0.1), ids)
    m = 0.3 * torch.ones_like(truth)
    unit = torch.eye(120, dtype=torch.float64).reshape(120, 1, 12, 10)
    dense = V.apply(unit).reshape(120, 120)
    A = problem.operator.forward(unit).reshape(120, 120).T
    gain = dense @ A.T @ torch.linalg.inv(0.01 * torch.eye(120) + A @ dense @ A.T)
    expected = m.flatten() + gain @ (problem.y - problem.operator.forward(m)).flatten()
    found = conditioned(V.around(m), problem, accuracy=1e-9).x
    torch.testing.assert_close(
        found.flatten(), expected, rtol=0, atol=1e-7
    )  # conjugate gradients to 1e-9 of sigma_y sqrt(m)


@pytest.mark.parametrize("factor", [0.25, 1.0, 4.0])
def test_the_residual_tells_how_wrong_an_estimate_is(factor):
    """Errors drawn from V, or V times a factor: found as such, but for errors smaller than V's, which count as V's."""
    prior = Prior(Wiener(), (1, 128, 128))
    V, sigma_y = spectral(prior, 1e-4), 0.02
    truth = noise(1, 1, 128, 128).double()
    problem = measure(SuperResolution(4), truth, Gaussian(sigma_y), Noise(["a"], "noise"))
    m = truth + factor**0.5 * V.root(
        torch.randn(truth.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    )
    found = V.around(m).scaled_to_residual(problem, Noise(["a"], "solver"))
    ratio = float((found.density / V.density).mean())
    unit = torch.randn(
        200, *truth.shape[1:], generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    power = problem.operator.forward(V.root(unit)).square().flatten(1).sum(1)
    size, n = float(power.mean()), 32 * 32
    by_noise = 2 * n * sigma_y**4 + 4 * sigma_y**2 * factor * size  # variance of |n|^2 + 2 n.(A e)
    spread = (
        math.sqrt((1 + factor**2) * float(power.var()) + by_noise) / size
    )  # of |A e|^2 for one e, and of the probe's trace
    assert abs(ratio - factor) < 5 * spread if factor > 1 else 1 <= ratio < 1 + 5 * spread
    assert factor >= 1 or ratio == 1


class Unshuffled(nn.Module):
    """Smooth, for latents that are regrouped pixels."""

    def forward(self, x, sigma, label=None):
        return nn.functional.pixel_unshuffle(Smooth()(nn.functional.pixel_shuffle(x, 2), sigma), 2)


class Halved(nn.Module):
    """E[z | z + sigma n] for latents N(0, (S0 / 2)^2)."""

    def forward(self, x, sigma, label=None):
        k = (S0**2 / 4 / (S0**2 / 4 + sigma**2)).reshape(-1, 1, 1, 1)
        return k * x


NEIGHBOURS = {
    "DAPS": DAPS(steps=4, sigma_max=1.0, sigma_min=0.05),
    "DAPS, a latent prior": DAPS(steps=4, sigma_max=1.0, sigma_min=0.05),
    "CoDPS+": CoDPSPlus(steps=8),
    "PaDIS": PaDIS(steps=4, sigma_max=1.0, sigma_min=0.05),
    "ReSample": ReSample(steps=8, skip=2),
    "ReSample in pixels of a latent prior": ReSample(steps=8, skip=2, sigma_latent=0.0),
}


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_what_is_measured_speaks_for_its_neighbours(name):
    """Smooth images with a hole: who knows how errors are spread fills it closer to the truth than by their mean alone."""
    side, ids = 32, [str(i) for i in range(8)]
    x0 = torch.fft.ifft2(
        smooth(side).sqrt() * torch.fft.fft2(noise(8, 1, side, side) / S0)
    ).real.float()
    problem = measure(hole(side, side, 8), x0, Gaussian(0.01), Noise(ids, "noise"))
    error, sooner = {}, {}
    for known in (True, False):
        if "latent" in name:
            denoiser = Table(Unshuffled(), schedule.scaled_linear_alpha_bar())
            prior = LatentPrior(denoiser, (4, side // 2, side // 2), Shuffle(0.0))
            prior = validated(LatentDiffusion(prior, AdamW(1e-3), weighting="edm"), x0)
        else:
            prior = validated(
                PixelDiffusion(Prior(Smooth(), (1, side, side), sigma_max=10.0), AdamW(1e-3)), x0
            )
        if not known:
            prior.variances = [[sigma, prior.variance(sigma)] for sigma, *_ in prior.variances]
            prior.image_variances = [
                [s, float(prior.image_density(s).mean())] for s, *_ in prior.image_variances
            ]
        *_, before, last = NEIGHBOURS[name](problem, prior, Noise(ids, "solver"))
        assert (problem.residual(last.x0) < 1.2).all()
        error[known], sooner[known] = (
            float((step.x0 - x0).square().mean()) for step in (last, before)
        )
    assert error[True] < error[False] and sooner[True] < sooner[False]


class Pooled(nn.Module):
    """A first stage that loses what is finer than 2 x 2 pixels."""

    factor = 2

    def encode(self, image):
        return nn.functional.avg_pool2d(image, 2)

    def posterior(self, image):
        return self.encode(image), None

    def decode(self, z, quantize=True):
        return nn.functional.interpolate(z, scale_factor=2)


def test_draws_of_daps_spread_by_what_the_autoencoder_loses():
    """White images, whose latents have a quarter of their variance: draws must have all of it, where nothing is measured."""
    side, ids, K = 32, [str(i) for i in range(8)], 8
    prior = LatentPrior(
        Table(Halved(), schedule.scaled_linear_alpha_bar()), (1, side // 2, side // 2), Pooled()
    )
    prior = validated(
        LatentDiffusion(prior, AdamW(1e-3), weighting="edm"),
        S0 * torch.randn(8, 1, side, side, generator=torch.Generator().manual_seed(7)),
    )
    problem = measure(
        SuperResolution(4), noise(8, 1, side, side), Gaussian(0.01), Noise(ids, "noise")
    )
    draws = [
        list(
            DAPS(steps=10, sigma_max=2.0, sigma_min=0.02)(
                problem, prior, Noise([f"{i}/{k}" for i in ids], "solver")
            )
        )[-1].x0
        for k in range(K)
    ]
    residual = torch.stack([problem.residual(x0) for x0 in draws]).square().mean()
    assert residual == pytest.approx(1, abs=5 * math.sqrt(2 / (8 * 64)))
    spread = torch.stack(draws).var(0)
    wrong = (torch.stack(draws).mean(0) - noise(8, 1, side, side)).square()
    ratio = float(spread.mean() / wrong.mean()) * (1 + 1 / K)
    entries = (
        8 * side**2
    )  # squares in the mean of `wrong`, in the variance that training measured, and K - 1 times in `spread`
    assert ratio == pytest.approx(1, abs=5 * math.sqrt(2 / entries * (2 + 1 / (K - 1))))
    operator = problem.operator
    assert DAPS().posterior(prior, operator) and not DAPSHMC().posterior(prior, operator)
    assert not DAPS().posterior(prior, HighDynamicRange())  # met through the decoder


@pytest.mark.parametrize("kind", PRIORS)
def test_a_share_of_a_covariance_of_errors_leaves_the_noise_level(kind):
    """And none of it is taken where the estimate already explains y."""
    prior, ids = PRIORS[kind], Noise(["a", "b"], "noise")
    V = spectral(prior)
    height, width = prior.image_shape[1:]
    truth = torch.randn(
        2, 1, height, width, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    )
    problem = measure(hole(height, width, 4), truth, Gaussian(0.1), ids).seen_by(prior)
    m = prior.to_state(torch.cat([torch.zeros_like(truth[:1]), truth[1:]]))
    found = conditioned(discrepancy(V.around(m), problem), problem, accuracy=1e-9, cap=400).x
    assert (
        float(problem.residual(found)[0]) == pytest.approx(1, abs=1e-5)
        and problem.residual(m)[0] > 2
    )
    expected = problem.residual(m)[1].clamp_max(1)
    assert float(problem.residual(found)[1]) == pytest.approx(float(expected), abs=1e-5)
    assert (
        not discrepancy(V.around(m).scaled(1e-9), problem).density[0].sub(1e-9 * V.density[0]).any()
    )  # all of it


def test_daps_starts_lower_where_it_knows_frequencies():
    linear = measure(hole(32, 32, 8), noise(1, 1, 32, 32), Gaussian(0.01), Noise(["a"], "noise"))
    curved = measure(HighDynamicRange(), noise(1, 1, 32, 32), Gaussian(0.01), Noise(["a"], "noise"))
    known, unknown = (
        Prior(Smooth(), (1, 32, 32), variances=[[1.0, 0.1]]),
        Prior(Smooth(), (1, 32, 32)),
    )
    free, fixed = DAPS(steps=4, sigma_max=None), DAPS(steps=4)
    assert free.levels(linear, known)[0] == pytest.approx(1.0)
    assert free.levels(linear, unknown)[0] == free.levels(curved, known)[0] == pytest.approx(10.0)
    wide = measure(hole(64, 64, 32), noise(1, 1, 64, 64), Gaussian(0.01), Noise(["a"], "noise"))
    assert free.levels(wide, known)[0] == pytest.approx(10.0)  # y says nothing of its inside
    weighted = replace(wide, operator=WeightedLinear(wide.operator, torch.ones(1, 1, 1, 1)))
    assert free.levels(weighted, known)[0] == pytest.approx(10.0)
    narrow = replace(wide, operator=hole(64, 64, 20).bind((1, 64, 64)))
    assert free.levels(narrow, known)[0] == pytest.approx(1.0)
    with pytest.raises(ValueError, match="sigma_max 0.0"):
        DAPS(sigma_max=0.0).levels(linear, known)
    assert fixed.levels(linear, known)[0] == pytest.approx(
        80.0
    )  # 100 lies above the prior's sigma_max


def test_a_hole_in_one_mask_is_none_in_its_neighbours():
    """The hole of an image asks for coarser noise levels; the other images of its batch are as they are alone."""
    masks = torch.stack([hole(64, 64, size).m[0] for size in (32, 8)])
    x, known = noise(2, 1, 64, 64).float(), Prior(Smooth(), (1, 64, 64), variances=[[1.0, 0.1]])
    problem = measure(Inpainting(masks), x, Gaussian(0.01), Noise(["a", "b"], "noise"))
    solver = DAPS(steps=4, sigma_max=None)

    def restored(given):
        options = {"solver": solver, "draws": 2, "batch_size": 4, "accelerator": "cpu"}
        return P.restore(given, known, **options).draws

    together = restored(problem)
    for i in range(2):
        torch.testing.assert_close(restored(problem.select([i]))[0], together[i], rtol=0, atol=1e-5)
