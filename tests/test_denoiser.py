"""One analytic Gaussian network under all parametrisations gives one D; patch assembly is exact for every offset."""

import pytest
import torch
from torch import nn

from data.seeding import Noise
from ldm import schedule
from ldm.denoiser import EDM, VP, Prior
from ldm.patch import PatchPrior, cut, padding, paste, positions
from ldm.sampling import noise_in, tweedie

S0 = 0.6
TABLE = schedule.scaled_linear_alpha_bar()


def shrink(sigma):
    """D(x, sigma) / x for x0 ~ N(0, S0^2)."""
    return S0**2 / (S0**2 + sigma**2)


class VPNetwork(nn.Module):
    """The exact eps, v or x0 of a Gaussian, from x_t and an interpolated t."""

    def __init__(self, predicts):
        super().__init__()
        self.predicts = predicts

    def forward(self, x_t, t):
        log_sigma = schedule.sigma_of(TABLE).log()
        low = t.double().floor().long().clamp(max=998)
        sigma = (
            (log_sigma[low] + (t.double() - low) * (log_sigma[low + 1] - log_sigma[low]))
            .exp()
            .reshape(-1, 1, 1, 1)
        )
        a = schedule.alpha_bar_of(sigma)
        x0 = shrink(sigma) * x_t / a.sqrt()
        eps = (x_t - a.sqrt() * x0) / (1 - a).sqrt()
        return {"x0": x0, "eps": eps, "v": a.sqrt() * eps - (1 - a).sqrt() * x0}[self.predicts]


class EDMNetwork(nn.Module):
    def forward(self, scaled, c_noise):
        sigma = (4 * c_noise).exp().reshape(-1, 1, 1, 1)
        x = scaled * (sigma**2 + 0.25).sqrt()
        return (
            (shrink(sigma) - 0.25 / (sigma**2 + 0.25))
            * x
            / (sigma * 0.5 / (sigma**2 + 0.25).sqrt())
        )


@pytest.mark.parametrize(
    "denoiser",
    [VP(VPNetwork(p), TABLE, p) for p in ("eps", "v", "x0")] + [EDM(EDMNetwork())],
    ids=["eps", "v", "x0", "edm"],
)
def test_every_parametrisation_is_one_denoiser(denoiser):
    x = Noise(["a", "b", "c"], "solver").normal((3, 2, 4, 5), torch.float64)
    sigma = torch.tensor([0.05, 1.0, 30.0], dtype=torch.float64)
    x = x * (1 + sigma.reshape(-1, 1, 1, 1))
    # eps and v cancel a term of size |x|: errors of a few ulp of |x|, times sigma for c_out
    bound = 100 * torch.finfo(torch.float64).eps * float(x.abs().max()) * 30
    assert (denoiser(x, sigma) - shrink(sigma).reshape(-1, 1, 1, 1) * x).abs().max() < bound


def test_vp_estimate_and_its_noise_make_x_t():
    prior = Prior(VP(VPNetwork("eps"), TABLE), (2, 4, 5))
    noise = Noise(["a", "b", "c"], "solver")
    x_t = noise.normal((3, 2, 4, 5), torch.float64)
    for a in TABLE[[10, 500, 990]].tolist():
        x0 = tweedie(prior, x_t, a, noise)
        rebuilt = a**0.5 * x0 + (1 - a) ** 0.5 * noise_in(x_t, x0, a)
        torch.testing.assert_close(rebuilt, x_t, rtol=0, atol=1e-13)
    assert prior.sigma_min == pytest.approx(0.03876, abs=5e-6) and prior.sigma_max == pytest.approx(
        83.8, abs=0.1
    )


class Remember(nn.Module):
    """A pixelwise denoiser that also uses its position, so that a misplaced patch is noticed."""

    def forward(self, x, sigma, label=None, position=None):
        return shrink(sigma.reshape(-1, 1, 1, 1)) * x + position.sum(1, keepdim=True)


@pytest.mark.parametrize(
    "size, patch, pad",
    [(256, 8, 8), (256, 32, 32), (256, 56, 24), (256, 64, 64), (256, 96, 32), (512, 64, 64)],
)
def test_padding_rule(size, patch, pad):
    """The pads that PaDIS states for its patch sizes."""
    assert padding(size, patch) == pad


@pytest.mark.parametrize("pad", [None, 11])
@pytest.mark.parametrize("partitions, chunk", [(1, None), (3, 4)])
def test_assembly_equals_the_pixelwise_denoiser(pad, partitions, chunk):
    prior = PatchPrior(
        Remember(), 1, size=20, patch=8, pad=pad, partitions=partitions, patch_batch=chunk
    )
    x = Noise(["a", "b"], "solver").normal((2, *prior.shape), torch.float64)
    sigma = torch.tensor([0.5, 2.0], dtype=torch.float64)
    whole = shrink(sigma.reshape(-1, 1, 1, 1)) * x + positions(prior.shape[-1], torch.float64).sum(
        0
    )
    for noise in (None, Noise(["a", "b"], "offset")):
        d = prior.denoise(x, sigma, noise)
        torch.testing.assert_close(prior.crop(d), prior.crop(whole), rtol=0, atol=1e-14)
        border = torch.ones_like(d, dtype=torch.bool)
        m = prior.margin
        border[..., m : m + 20, m : m + 20] = False
        assert (d[border] == -1).all()


def test_every_offset_covers_each_pixel_once_and_stays_inside():
    prior = PatchPrior(Remember(), 1, size=20, patch=8)
    seen = set()
    for i in range(400):
        [(rows, columns)] = prior.layouts(1, Noise([str(i)], "offset"))
        _, count = paste(
            torch.ones(rows.numel(), 1, 8, 8), rows, columns, torch.zeros(1, *prior.shape)
        )
        assert count.max() == 1 and prior.crop(count).min() == 1
        seen.add((int(rows.min()), int(columns.min())))
    # all of 0..M on both axes occur: 5 x 5 offsets, each missed with probability (24/25)^400 < 1e-7
    assert {a for a, _ in seen} == set(range(prior.margin + 1)) and len(seen) == (
        prior.margin + 1
    ) ** 2


def test_cut_and_paste_are_inverse():
    x = Noise(["a"], "solver").normal((1, 2, 9, 9))
    rows = torch.tensor([[0, 0, 3, 3]])
    columns = torch.tensor([[0, 3, 0, 3]])
    total, count = paste(cut(x, rows, columns, 6), rows, columns, x)
    torch.testing.assert_close(total / count, x)


def test_gray_view_of_a_three_channel_prior():
    prior = PatchPrior(Remember(), 3, size=20, patch=8)
    prior.gray = True
    image = Noise(["a"], "solver").normal((1, 1, 20, 20), torch.float64)
    assert prior.image_shape == (1, 20, 20)
    torch.testing.assert_close(prior.to_image(prior.to_state(image)), image)
    torch.testing.assert_close(prior.to_image(prior.lift(image)), prior.gain * image)
    state = Noise(["b"], "solver").normal((1, *prior.shape), torch.float64)
    assert float(
        (prior.to_image(state) * image).sum() - (state * prior.lift(image)).sum()
    ) == pytest.approx(0, abs=1e-12)
