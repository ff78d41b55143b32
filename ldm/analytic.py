"""Priors whose posterior is known in closed form: the rulers that solvers are measured with.

D(x, sigma) = E[x0 | x] without weights, exact at every noise level. `posterior` answers for a linear measurement given as
a dense matrix, so that what a solver draws can be compared with the truth.
"""

import torch
from torch import Tensor, nn


class Mixture(nn.Module):
    """x0 ~ sum_k w_k N(mu_k, S_k) on flattened images of d entries; one component is a Gaussian prior.

    weights [K], means [K,d], covariances [K,d,d]; everything is float64 inside.
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor
    values: Tensor
    vectors: Tensor

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor):
        super().__init__()
        self.register_buffer("weights", weights.double())
        self.register_buffer("means", means.double())
        self.register_buffer("covariances", covariances.double())
        values, vectors = torch.linalg.eigh(
            covariances.double()
        )  # S_k + sigma^2 I is then diagonal at every sigma
        self.register_buffer("values", values)
        self.register_buffer("vectors", vectors)

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        """x [B,...], sigma [B] -> posterior mean, shaped like x."""
        centred = torch.einsum(
            "kde,bkd->bke", self.vectors, x.double().flatten(1)[:, None] - self.means
        )
        spread = self.values + sigma.double()[:, None, None] ** 2  # [B,K,d]
        responsibility = (
            self.weights.log() - 0.5 * (centred**2 / spread + spread.log()).sum(2)
        ).softmax(1)
        each = self.means + torch.einsum(
            "kde,bke->bkd", self.vectors, self.values / spread * centred
        )
        return torch.einsum("bk,bkd->bd", responsibility, each).to(x).reshape(x.shape)

    def draw(self, uniform: Tensor, normal: Tensor) -> Tensor:
        """Prior samples [B,d] from uniform numbers [B] and normal ones [B,d]."""
        k = (uniform[:, None] >= self.weights.cumsum(0)).sum(1).clamp_max(len(self.weights) - 1)
        root = self.vectors * self.values.clamp_min(0).sqrt()[:, None]
        return self.means[k] + torch.einsum("bde,be->bd", root[k], normal.double())

    def posterior(self, matrix: Tensor, y: Tensor, sigma_y: float) -> tuple[Tensor, Tensor, Tensor]:
        """Each entry's distribution given y = matrix x0 + sigma_y n, again a mixture of Gaussians: weights [B,K], means
        [B,K,d] and variances [K,d]. matrix [m,d], y [B,m].
        """
        SAt = self.covariances @ matrix.T  # [K,d,m]
        total = matrix @ SAt + sigma_y**2 * torch.eye(len(matrix), dtype=torch.float64)
        gain = torch.linalg.solve(total, SAt.mT).mT  # [K,d,m]
        r = y.double()[:, None] - self.means @ matrix.T  # [B,K,m]
        distance = torch.einsum("bkm,kmn,bkn->bk", r, torch.linalg.inv(total), r)
        weights = (self.weights.log() - 0.5 * (distance + torch.logdet(total))).softmax(1)
        means = self.means + torch.einsum("kdm,bkm->bkd", gain, r)
        return weights, means, (self.covariances - gain @ SAt.mT).diagonal(dim1=1, dim2=2)


def gaussian(covariance: Tensor, mean: Tensor | None = None) -> Mixture:
    """N(mean, covariance), mean 0 by default."""
    mean = torch.zeros(len(covariance)) if mean is None else mean
    return Mixture(torch.ones(1), mean[None], covariance[None])
