"""Priors on images of another size: the window is exact, tiles blend without seams, derivatives cost one tile's memory."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from data.seeding import Noise
from ldm import resize
from ldm.denoiser import Prior
from ldm.latent import LatentPrior
from ldm.patch import PatchPrior
from solvers.condition import condition
from solvers.operators.pointwise import Denoising
from solvers.problem import measure
from solvers.run.cost import Meter


class Pointwise(nn.Module):
    """A Gaussian prior's denoiser, pixel by pixel: tiles of it must give the whole exactly."""

    def forward(self, x, sigma, label=None, position=None):
        return x / (1 + sigma.reshape(-1, 1, 1, 1) ** 2)


class Stage(nn.Module):
    """Nearest upsampling by 2 and its left inverse: local, so tiles of it are exact too."""

    factor = 2

    def encode(self, image):
        return functional.avg_pool2d(image, 2)

    def decode(self, z, quantize=True):
        return functional.interpolate(z, scale_factor=2).tanh()


def pixel(size: int = 8) -> Prior:
    return Prior(Pointwise(), (1, size, size), 0.01, 10.0)


def latent(size: int = 8) -> LatentPrior:
    return LatentPrior(
        Pointwise(), (1, size // 2, size // 2), Stage(), sigma_min=0.01, sigma_max=10.0
    )


def noise(*shape: int) -> torch.Tensor:
    return Noise([str(i) for i in range(shape[0])], "noise").normal(shape, torch.float64)


def test_a_prior_of_the_right_size_is_left_alone():
    prior = pixel()
    assert resize.fit(prior, (1, 8, 8)) == (prior, "")


@pytest.mark.parametrize(
    "prior", [pixel(), latent(), PatchPrior(Pointwise(), 1, 8, 4)], ids=["pixel", "latent", "patch"]
)
@pytest.mark.parametrize("shape", [(1, 5, 6), (1, 8, 3)])
def test_small_images_are_a_window_of_the_prior_s(prior: Prior, shape: tuple[int, int, int]):
    framed, note = resize.fit(prior, shape)
    assert framed.image_shape == shape and "cropped back" in note and framed.kind == prior.kind
    image = noise(2, *shape) / 3
    state = framed.to_state(image)
    assert state.shape == (2, *framed.shape)
    assert torch.equal(framed.denoise(state, torch.ones(2)), prior.denoise(state, torch.ones(2)))
    if prior.kind == "pixel":
        assert torch.equal(framed.to_image(state), image)
        x, y = noise(2, *framed.shape), noise(2, *shape)
        # <window x, y> = <x, lift y>: exact up to the order of the sum
        assert torch.allclose(
            (framed.to_image(x) * y).sum(), (x * framed.lift(y)).sum(), atol=1e-12
        )


@pytest.mark.parametrize(
    "prior, shape",
    [
        (latent(), (1, 5, 6)),  # framed
        (latent(), (1, 12, 16)),  # tiled
        (latent(), (1, 11, 15)),  # both
        (pixel(), (1, 5, 6)),
        (pixel(), (1, 12, 16)),
        (pixel(), (1, 3, 8, 8)),  # a volume of its slices
    ],
)
def test_what_is_known_of_a_prior_is_passed_on(prior: Prior, shape: tuple[int, ...]):
    """All that its class has a value for, which nobody asks the inner prior about unless it is copied."""
    prior.contracts, prior.origin, prior.coherence = {"CT": (-1000.0, 400.0)}, "digest", ()
    if prior.kind == "latent":
        prior.error_variance, prior.image_variances = 0.01, [(1.0, *[0.5] * 33)]
    adapted, _ = resize.fit(prior, shape)
    known = [name for name in Prior.__annotations__ if hasattr(Prior, name)]
    assert {"kind", "gray", "error_variance", "image_variances", "contracts"} < set(known)
    assert [getattr(adapted, name) for name in known] == [getattr(prior, name) for name in known]


def test_an_update_behind_a_window_leaves_the_frame_to_the_prior():
    framed, _ = resize.fit(pixel(), (1, 5, 6))
    truth = noise(2, 1, 5, 6) / 3
    problem = measure(Denoising(), truth, 0.1, Noise(["a", "b"], "noise"))
    m = torch.zeros(2, *framed.shape, dtype=torch.float64)
    x = condition(m, 0.25, problem.seen_by(framed))
    inside = framed.to_image(x)
    assert torch.allclose(
        inside, problem.y * 0.25 / (0.25 + 0.01), atol=1e-12
    )  # the scalar Gaussian update
    assert float((x - framed.lift(inside)).abs().max()) == 0


@pytest.mark.parametrize(
    "prior, shape",
    [
        (pixel(), (1, 19, 13)),
        (latent(), (1, 20, 30)),
        (latent(), (1, 19, 9)),
        (pixel(), (1, 6, 20)),
    ],
)
def test_tiles_of_local_networks_give_the_whole(prior: Prior, shape: tuple[int, int, int]):
    tiled, note = resize.fit(prior, shape)
    assert tiled.image_shape == shape and "overlapping tiles" in note
    x = noise(2, *tiled.shape)
    sigma = torch.tensor([0.5, 2.0], dtype=torch.float64)
    assert torch.allclose(tiled.denoise(x, sigma), Pointwise()(x, sigma), atol=1e-12)
    if prior.kind == "latent":
        whole = functional.interpolate(x, scale_factor=2).tanh()
        assert torch.allclose(
            tiled.decode(x), tiled.window(whole) if shape[1] % 2 else whole, atol=1e-12
        )


def test_tiles_that_disagree_are_blended_without_a_seam():
    class Numbered(nn.Module):
        calls = 0

        def forward(self, x, sigma, label=None):
            self.calls += 1
            return torch.full_like(x, self.calls)

    tiled, _ = resize.fit(Prior(Numbered(), (1, 64, 64)), (1, 64, 112))
    row = tiled.denoise(torch.zeros(1, 1, 64, 112), torch.ones(1))[0, 0, 32]
    # From 1 to 2 over the 16 pixels in common: 1/16 a pixel if straight, at most twice that; a plain mean jumps by 1/2.
    assert (row[0], row[-1]) == (1, 2) and 0 <= row.diff().min() <= row.diff().max() < 2 / 16


def test_tiles_overlap_by_a_quarter_and_cover_everything():
    for size in range(8, 60):
        starts = resize._starts(size, 8)
        assert starts[0] == 0 and starts[-1] == size - 8
        assert all(b - a <= 6 for a, b in zip(starts, starts[1:]))


def test_derivatives_through_a_tiled_decoder_are_those_of_the_whole():
    tiled, _ = resize.fit(latent(), (1, 20, 14))
    z, dz, g = noise(1, *tiled.shape), noise(1, *tiled.shape) * 0.3, noise(1, 1, 20, 14)
    whole = lambda z: functional.interpolate(z, scale_factor=2).tanh()  # noqa: E731
    for f, expected in (
        (torch.func.vjp(tiled.decode, z)[1](g)[0], torch.func.vjp(whole, z)[1](g)[0]),
    ):
        assert torch.allclose(f, expected, atol=1e-12)
    assert torch.allclose(
        torch.func.jvp(tiled.decode, (z,), (dz,))[1],
        torch.func.jvp(whole, (z,), (dz,))[1],
        atol=1e-12,
    )
    z.requires_grad_()
    (tiled.decode(z) * g).sum().backward()
    assert torch.allclose(z.grad, torch.func.vjp(whole, z.detach())[1](g)[0], atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 20, 20), (1, 20, 13), (1, 9, 8)])
def test_patch_priors_are_stretched_to_larger_images(shape):
    """The network sees patches as large as ever, whose places span the larger padded square from -1 to 1."""
    seen = []

    class Places(torch.nn.Module):
        def forward(self, x, sigma, label=None, position=None):
            seen.append(position)
            return x / 2

    prior = PatchPrior(Places(), 1, 8, 4)
    fitted, note = resize.fit(prior, shape)
    assert fitted.image_shape == shape and "stretched" in note and prior.image_shape == (1, 8, 8)
    x = fitted.to_state(noise(1, *shape))
    found = fitted.to_image(fitted.denoise(x, torch.ones(1, dtype=torch.float64)))
    assert torch.allclose(found, fitted.to_image(x) / 2, atol=1e-12)
    side = fitted.shape[-1]
    step = 2 / (side - 1)
    assert all(p.shape[-2:] == (4, 4) for p in seen)
    assert all(
        torch.allclose(p[:, 0, 0, 1] - p[:, 0, 0, 0], torch.tensor(step, dtype=p.dtype), atol=1e-6)
        for p in seen
    )


def test_channels_must_agree():
    with pytest.raises(ValueError, match="channels"):
        resize.fit(pixel(), (3, 8, 8))


def test_the_meter_counts_calls_and_backward_passes_and_lowers_the_denoiser_only():
    seen, decoding = [], []

    class Watched(Pointwise):
        def forward(self, x, sigma, label=None, position=None):
            seen.append(torch.is_autocast_enabled("cpu"))
            return super().forward(x, sigma)

    prior = latent()
    prior.denoiser = Watched()
    decode = prior.first_stage.decode
    prior.first_stage.decode = lambda z, **how: (
        decoding.append(torch.is_autocast_enabled("cpu")),
        decode(z, **how),
    )[1]
    z = noise(1, *prior.shape).float().requires_grad_()
    with Meter(prior, torch.bfloat16) as meter:
        x0 = prior.denoise(z, torch.ones(1))
        image = prior.to_image(x0)
        image.sum().backward()
        pull = torch.func.vjp(prior.to_image, z.detach())[1]
        pull(torch.ones_like(image))
        pull(torch.ones_like(image))
        torch.func.jvp(prior.to_image, (z.detach(),), (z.detach(),))
        assert not torch.is_autocast_enabled("cpu") and x0.dtype == torch.float32
    assert (meter.nfe, meter.vjps) == (1, 4) and seen == [True]
    assert decoding == [False] * 3  # once by itself, once in each derivative
    prior.denoise(z, torch.ones(1))
    assert meter.nfe == 1 and seen == [True, False]
