"""The kernel of a blur that nobody knows, from the blurred image alone: the likeliest one under the prior."""

import math
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from data.files import Refusal
from data.seeding import Noise
from ldm.denoiser import Prior
from ldm.sampling import ve_levels
from solvers.beliefs import Belief, spectral_state
from solvers.condition import condition
from solvers.measured.noise_level import estimated_sigma_y
from solvers.operators.blur import KernelBlurs
from solvers.operators.kernels import in_the_middle, off_centre
from solvers.problem import Gaussian, Problem
from solvers.solver import Chain

STEPS = 20  # noise levels, calls of the network
SIGMA_MAX, SIGMA_MIN = 5.0, 0.03  # of them, in units of images in [-1, 1]
ROUNDS, RATE = 120, 0.2  # of Adam at each level, on the kernel's logarithms
WIDTH = 1 / 8  # of the window: deviation of the Gaussian that the search begins with
APART = -1  # no draw's number, so that the search has random numbers of its own


def known(problem: Problem, prior: Prior, seed: int, simulated: bool) -> tuple[Problem, list[str]]:
    """A problem as it is, or with the kernel of its blind blur found; and what is to be said of each image's, if anything."""
    if not problem.operator.blind:
        return problem, []
    found = with_found_kernel(problem, prior, seed)
    said = "the kernel was found in the image"
    if not simulated:
        return found, [said] * len(problem.ids)
    kernels = (each.operator.files()["kernel"] for each in (found, problem))
    shares = agreement(*kernels)
    return found, [f"{said}; it correlates with the true one by {share:.2f}" for share in shares]


def check(problem: Problem, prior: Prior) -> None:
    """Raise Refusal, in one line, for a blind blur whose kernel this prior cannot find."""
    if not problem.operator.blind:
        return
    if not spectral_state(prior, problem.operator):
        need = "a pixel prior that knows its errors by frequency, as demo-pixel does"
        raise Refusal(f"a blind blur needs {need}")
    if not isinstance(problem.likelihood, Gaussian):
        raise Refusal("a blind blur needs Gaussian noise")


def with_found_kernel(problem: Problem, prior: Prior, seed: int = 0) -> Problem:
    """The problem with the kernel of its `BlindBlurs` found, another one for each image, by a prior of images.

    At noise level sigma the image is taken to be z + e with z = D(x, sigma) and e ~ N(0, a V), V as training measured it by
    frequency, the scale a being unknown. Then y ~ N(k * z, a V |K|^2 + sigma_y^2) at each frequency, and k is the kernel, of
    entries >= 0 and sum 1, that makes y likeliest. Errors are accounted for, not forgotten: where x and k alone take turns,
    no blur at all explains y best (Levin, Weiss, Durand, Freeman 2011, "Efficient marginal likelihood optimization in blind
    deconvolution"). x is a draw given y and that kernel, with noise of the next level on it, as in DAPS; Laroche, Almansa and
    Coupete 2024 ("Fast diffusion EM") alternate so too. Where k and the image may move against each other, k has its centre
    of mass in the middle of its window.

    Raises Refusal for priors that do not know their errors by frequency, and for noise that is not Gaussian.
    """
    check(problem, prior)
    levels = [*ve_levels(prior, STEPS, SIGMA_MIN, SIGMA_MAX, "geometric"), 0.0]
    noise = Noise(problem.ids, "solver", seed, [APART] * len(problem.ids))
    chain = Chain(problem, prior, noise, levels)
    blur: KernelBlurs = problem.operator  # type: ignore[assignment]
    k = beginning(blur.files()["kernel"].shape[-1], problem.y)
    x = levels[0] * chain.start()
    for sigma, sigma_next in pairwise(levels):
        z = chain.denoise(x, sigma)
        density = prior.density(sigma).to(z)  # type: ignore[union-attr]
        k = likeliest(k, prior.to_image(z), problem, blur.border, density)
        k, z = centred(k, z)
        problem = replace(problem, operator=KernelBlurs(k, blur.border).bind(blur.shape))
        seen = problem.whitened().seen_by(prior)
        belief = Belief.of(prior, z, sigma, problem).scaled_to_residual(seen, noise)
        x = chain.framed(condition(belief, seen, noise)) + sigma_next * noise.like(x)
    return problem


def beginning(size: int, y: Tensor) -> Tensor:
    """A Gaussian kernel [B,1,size,size] for each image of y, which takes no side."""
    place = torch.arange(size, dtype=y.dtype, device=y.device) - size // 2
    line = (-0.5 * (place / (WIDTH * size)) ** 2).softmax(0)
    return torch.outer(line, line).expand(len(y), 1, size, size)


@torch.enable_grad()
def likeliest(k: Tensor, z: Tensor, problem: Problem, border: str, density: Tensor) -> Tensor:
    """The kernel [B,1,m,m] that makes y likeliest about the images z [B,C,H,W], sought from k on.

    density: [H,W] variance of z's errors at each frequency, right but for one factor for each image.
    """
    (height, width), y = z.shape[-2:], problem.y
    assert isinstance(problem.likelihood, Gaussian)
    known = problem.likelihood.sigma_y
    sigma = estimated_sigma_y(problem) if known is None else y.new_full((len(y),), known)
    s2 = sigma.square()[:, None, None, None]
    V = density[:, : width // 2 + 1]
    column = torch.arange(V.shape[1], device=V.device)
    twice = 2 - (2 * column % width == 0).to(V)  # frequencies stand for their conjugates too
    logits = k.clamp_min(1e-5).log().clone().requires_grad_()
    scale = torch.zeros_like(s2).requires_grad_()  # ln a
    adam = torch.optim.Adam([logits, scale], lr=RATE)
    for _ in range(ROUNDS):
        taps = normalised(logits)
        r = y - KernelBlurs(taps, border).forward(z)  # type: ignore[arg-type]
        K = torch.fft.rfft2(taps, s=(height, width)).to(z.device)
        expected = scale.exp() * V * K.abs().square() + s2
        found = torch.fft.rfft2(r, norm="ortho").abs().square()
        loss = (twice * (found / expected + expected.log())).mean((1, 2, 3)).sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
    return normalised(logits).detach()


def normalised(logits: Tensor) -> Tensor:
    """Kernels of entries above 0 and sum 1, [B,1,m,m], of their logarithms."""
    return logits.flatten(1).softmax(1).reshape(logits.shape)


def centred(k: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Kernels with their centres of mass in the middle pixel, and images moved the other way, so that y stays as it is."""
    images = [row.roll(offset, (-2, -1)) for row, offset in zip(z, off_centre(k))]
    return in_the_middle(k), torch.stack(images)


def agreement(k: Tensor, truth: Tensor) -> list[float]:
    """The correlation of kernels [B,1,m,m] with the true ones, at the shift where it is greatest: 1 where they are equal."""
    grown = [functional.pad(a, (0, a.shape[-1], 0, a.shape[-2])) for a in (k, truth.to(k))]
    spectra = [torch.fft.rfft2(a) for a in grown]
    product = torch.fft.irfft2(spectra[0] * spectra[1].conj(), grown[0].shape[-2:])
    size = [a.flatten(1).norm(dim=1) for a in grown]
    return (product.flatten(1).amax(1) / math.prod(size)).tolist()
