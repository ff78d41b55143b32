"""The belief that a denoiser's own derivative gives: Cov[x0 | x] = sigma^2 dD/dx (Tweedie's second moment)."""

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from data.seeding import Noise
from ldm.denoiser import Prior
from ldm.sampling import full
from solvers.beliefs import FINE, Belief
from solvers.operators.base import dot, norm, per_image


class Jacobian(Belief):
    """N(D(x), sigma^2 dD/dx): Tweedie's first two moments, by one vector-Jacobian product for each V x.

    The Jacobian of an exact denoiser is symmetric, so that its transpose, which is cheaper, stands for it. rank: Lanczos
    vectors for V^(1/2), which is exact when they reach the dimension.
    """

    rooted = False
    accuracy = FINE

    def __init__(self, prior: Prior, x: Tensor, sigma: float, offset: Noise, rank: int = 30):
        def D(state: Tensor) -> Tensor:
            return prior.denoise(state, full(sigma, state), offset)

        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            mean, self.pull = torch.func.vjp(D, x)  # type: ignore[misc]
        self.mean, self.sigma, self.rank = mean.detach(), sigma, rank

    def apply(self, x: Tensor) -> Tensor:
        return self.sigma**2 * self.pull(x)[0].detach()

    def root(self, z: Tensor) -> Tensor:
        return lanczos_root(self, z, self.rank)

    def trace(self, signs: Tensor) -> Tensor:
        """Hutchinson's estimate of the mean variance per entry, [B]; signs: random, and 0 where nothing is asked."""
        per_entry = dot(signs, self.apply(signs)) / dot(signs, signs)
        return per_entry.clamp(
            1e-6 * self.sigma**2, self.sigma**2
        )  # a network's Jacobian may leave what variances can be


def lanczos_root(V: Belief, z: Tensor, rank: int) -> Tensor:
    """V^(1/2) z for symmetric V, per image: |z| Q f(T) e1, f the root of the positive part (Chow & Saad 2014)."""
    rank = min(rank, z[0].numel())
    length = norm(z)
    basis = [z / per_image(length, z)]
    T = torch.zeros(len(z), rank, rank, dtype=torch.float64, device=z.device)
    for k in range(rank):
        w = V.apply(basis[k])
        T[:, k, k] = dot(w, basis[k]).double()
        for q in basis * 2:  # full reorthogonalisation; twice is enough (Parlett)
            w = w - per_image(dot(w, q), w) * q
        beta = norm(w)
        if k + 1 == rank:
            break
        alive = beta > 1e-10 * T.diagonal(dim1=1, dim2=2).abs().amax(
            1
        )  # an exhausted space leaves the rest decoupled
        T[:, k, k + 1] = T[:, k + 1, k] = torch.where(alive, beta, 0).double()
        basis.append(torch.where(per_image(alive, w).bool(), w / per_image(beta, w), 0))
    finite = (
        torch.isfinite(T).all(2).all(1)
    )  # one image's broken network output must not stop the others' eigh
    values, vectors = torch.linalg.eigh(torch.where(finite[:, None, None], T, 0))
    weights = torch.einsum("bij,bj,bj->bi", vectors, values.clamp_min(0).sqrt(), vectors[:, 0])
    weights = torch.where(finite[:, None], weights, torch.nan) * length[:, None].double()
    return torch.einsum("bk,kb...->b...", weights.to(z), torch.stack(basis))
