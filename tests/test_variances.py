"""A prior measures how wrong it is at each noise level while it is validated; solvers take that as Var[x0 | x]."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ldm import spectra
from ldm.denoiser import Prior
from ldm.patch import PatchPrior
from ldm.resize import fit
from ldm.training.crops import Crops
from ldm.training.diffusion import LEVELS, PatchDiffusion, PixelDiffusion
from ldm.training.latent_diffusion import LatentDiffusion
from ldm.training.optimisation import AdamW
from solvers.beliefs import isotropic_variance, state_variance
from tests.analytic import Shuffle, latent

S0 = 0.5


class Wiener(nn.Module):
    """E[x0 | x] for pixels N(0, S0^2); black states are told from the others by their position."""

    def forward(self, x, sigma, label=None, position=None):
        k = (S0**2 / (S0**2 + sigma**2)).reshape(-1, 1, 1, 1)
        return k * x


def validated(
    module: PixelDiffusion, image: torch.Tensor, label: torch.Tensor | None = None
) -> Prior:
    """The module's prior after a validation on one batch."""
    module.trainer = SimpleNamespace(sanity_checking=False, global_rank=0)  # type: ignore[assignment]
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    module.all_gather = lambda x: x  # type: ignore[method-assign]
    module.eval()
    with torch.no_grad():
        module.validation_step(
            {"image": image, "image_id": [str(i) for i in range(len(image))], "label": label}, 0
        )
    module.on_validation_epoch_end()
    return module.prior


def noise(*shape: int) -> torch.Tensor:
    return S0 * torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_an_exact_denoiser_measures_the_posterior_variance():
    prior = validated(
        PixelDiffusion(Prior(Wiener(), (1, 64, 64)), AdamW(1e-3)), noise(8, 1, 64, 64)
    )
    entries = 8 * 64 * 64
    for sigma, *_ in prior.variances:
        exact = S0**2 * sigma**2 / (S0**2 + sigma**2)
        assert abs(prior.variance(sigma) / exact - 1) < 5 * math.sqrt(
            2 / entries
        )  # a mean of squares; 12 comparisons
    assert len(prior.variances) == LEVELS


def test_a_latent_prior_also_measures_what_it_decodes():
    """Pixels that are latents twice as wide, of a unit Gaussian: at every level and frequency 4 sigma^2 / (1 + sigma^2)."""
    prior = latent((1, 64, 64), bend=0.0)
    prior.first_stage = Doubled(0.0)
    image = 4 * noise(8, 1, 64, 64)
    found = validated(LatentDiffusion(prior, AdamW(1e-3), weighting="edm"), image)
    entries = 4 * 64 * 64  # half of the batch is decoded
    for sigma, *_ in found.image_variances:
        exact = 4 * sigma**2 / (1 + sigma**2)
        assert abs(float(found.image_density(sigma).mean()) / exact - 1) < 5 * math.sqrt(
            2 / entries
        )
    assert len(found.image_variances) == LEVELS
    framed, _ = fit(found, (1, 60, 50))
    assert framed.image_density(1.0).shape == (60, 50)


class Doubled(Shuffle):
    """Latents are half the pixels."""

    def encode(self, image):
        return super().encode(image / 2)

    def decode(self, z, quantize=True):
        return 2 * super().decode(z, quantize)


class Smooth(nn.Module):
    """E[x0 | x] for images whose power falls with frequency f as S0^2 exp(-12 f): S/(S + sigma^2) at each of them."""

    def forward(self, x, sigma, label=None):
        gain = smooth(x.shape[-1]) / (smooth(x.shape[-1]) + sigma.reshape(-1, 1, 1, 1) ** 2)
        return torch.fft.ifft2(gain.to(x) * torch.fft.fft2(x)).real


def smooth(side: int) -> torch.Tensor:
    return S0**2 * torch.exp(-12 * torch.from_numpy(spectra.radius(side, side)))


def test_errors_are_measured_by_frequency():
    """At every knot the density is S sigma^2 / (S + sigma^2), to the spread of a mean of that many squares."""
    side, images = 64, 16
    x0 = torch.fft.ifft2(
        smooth(side).sqrt() * torch.fft.fft2(noise(images, 1, side, side) / S0)
    ).real.float()
    prior = validated(PixelDiffusion(Prior(Smooth(), (1, side, side)), AdamW(1e-3)), x0)
    S, knot = smooth(side), spectra.nearest(side, side)
    for sigma, *density in prior.variances:
        exact = S * sigma**2 / (S + sigma**2)
        for k in knot.unique().tolist():
            expected, count = float(exact[knot == k].mean()), images * int((knot == k).sum())
            unequal = (
                float(exact[knot == k].square().mean().sqrt()) / expected
            )  # terms of one knot are not quite alike
            assert abs(density[k] / expected - 1) < 5 * unequal * math.sqrt(2 / count), (sigma, k)


def test_the_padding_of_patches_does_not_count():
    """Noise inside, black around: the padding alone would be wrong by (1 - k)^2 at high levels."""
    prior = PatchPrior(Wiener(), 1, 32, 12)
    measured = validated(
        PatchDiffusion(prior, AdamW(1e-3), crops=Crops({12: 1.0}, per_image=4)),
        noise(16, 1, 32, 32),
    )
    sigma = measured.variances[0][0]
    assert abs(
        measured.variance(sigma) / (S0**2 * sigma**2 / (S0**2 + sigma**2)) - 1
    ) < 5 * math.sqrt(2 / (16 * 32 * 32))


class Classes(nn.Module):
    """An exact denoiser of constants, one for each class: without error, if it is told the class of every image."""

    classes = 2

    def forward(self, x, sigma, label, position=None):
        return (label - 0.5).reshape(-1, 1, 1, 1).expand_as(x)


def test_patch_priors_measure_each_image_under_its_own_label():
    prior, label = PatchPrior(Classes(), 1, 32, 12), torch.tensor([1, 0, 1])
    module = PatchDiffusion(prior, AdamW(1e-3), labels=True, crops=Crops({12: 1.0}, per_image=4))
    image = (label - 0.5).reshape(-1, 1, 1, 1).expand(-1, 1, 32, 32)
    validated(module, image, label)
    assert all(max(row) < 1e-20 for _, *row in prior.variances) and prior.label is None
    shown = module.pictures({"image": image, "label": label})
    assert torch.equal(shown["samples"], image) and torch.equal(shown["denoising"][-3:], image)


def test_between_levels_below_and_above():
    prior = Prior(
        Wiener(), (1, 8, 8), variances=[[1.0, 0.1], [0.1, 0.001]]
    )  # in training's order, from the highest level down
    assert prior.variance(0.1) == pytest.approx(0.001)
    assert prior.variance(10**-0.5) == pytest.approx(0.01)
    assert prior.variance(0.01) == pytest.approx(1e-5)  # as sigma^2
    assert prior.variance(50.0) == pytest.approx(0.1)
    assert Prior(Wiener(), (1, 8, 8), variances=[[0.1, 0.5]]).variance(0.1) == pytest.approx(
        0.01
    )  # D(x) = x is no worse
    assert Prior(Wiener(), (1, 8, 8)).variance(0.1) is None


def test_grids_of_any_size_read_one_table():
    """Power at the knots themselves comes back; a grid that lacks the lowest ones, or is not square, takes part of the table."""
    table = spectra.row(1.0, (spectra.KNOTS**-2).tolist(), [1] * len(spectra.KNOTS))
    for height, width in ((256, 256), (64, 64), (48, 80)):
        found = spectra.density([table], 100.0, height, width)
        assert found.shape == (height, width)
        inner = spectra.radius(height, width) < spectra.KNOTS[-1]
        torch.testing.assert_close(
            torch.from_numpy(found * spectra.radius(height, width) ** 2)[inner],
            torch.ones(int(inner.sum())).double(),
        )


def test_solvers_believe_what_was_measured():
    prior = Prior(Wiener(), (1, 8, 8), variances=[[0.1, 0.001], [1.0, 0.1]])
    assert state_variance(prior, 1.0) == pytest.approx(0.1)
    assert isotropic_variance(1.0, s0=0.5) == pytest.approx(0.2)  # 0.25 / 1.25
    assert state_variance(Prior(Wiener(), (1, 8, 8)), 1.0) == pytest.approx(0.2)
    framed, _ = fit(prior, (1, 6, 7))
    assert state_variance(framed, 1.0) == pytest.approx(0.1)
