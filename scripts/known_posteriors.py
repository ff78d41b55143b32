"""Priors whose posterior is known, so that a solver's draws can be compared with it (calibrate.py)."""

import copy

import torch
from torch import Tensor, nn

from data.seeding import Noise, Purpose
from ldm.analytic import Mixture, gaussian
from ldm.denoiser import Prior
from ldm.latent import LatentPrior
from ldm.schedule import Table
from solvers.codps import CoDPS
from solvers.dps import DPSLikelihood
from solvers.psld import PSLD
from solvers.resample import ReSample

SIDE, S0, LOW, TOP = 4, 0.5, 0.002, 10.0
D = SIDE * SIDE


class Stream(Noise):
    """One generator for all rows: here thousands of tiny images are drawn, and none has to be drawn again alone."""

    def of(self, purpose: Purpose) -> "Stream":
        return Stream(self.ids, purpose, self.run_seed, self.samples)

    def _draw(self, source, shape) -> Tensor:
        return source(tuple(shape), generator=self.generators[0], dtype=torch.float64)


class Turn(nn.Module):
    """A lossless first stage: an orthogonal map of the pixels, scaled to latents of variance one."""

    factor = 1

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer(
            "Q", torch.linalg.qr(torch.randn(D, D, generator=generator, dtype=torch.float64)).Q
        )

    def encode(self, image: Tensor) -> Tensor:
        return (image.flatten(1) @ self.Q.T / S0).reshape(image.shape)

    def decode(self, z: Tensor, quantize: bool = True) -> Tensor:
        return (S0 * z.flatten(1) @ self.Q).reshape(z.shape)


def correlation() -> Tensor:
    """Variance S0^2, falling off with the distance of two pixels over 4 of them."""
    place = torch.cartesian_prod(torch.arange(SIDE), torch.arange(SIDE)).double()
    return S0**2 * torch.exp(-torch.cdist(place, place) / 4)


def priors() -> dict[str, Mixture]:
    """The three families of truth."""
    bump = 0.5 * torch.ones(1, D, dtype=torch.float64)
    narrow = 0.3 * correlation()
    return {
        "isotropic": gaussian(S0**2 * torch.eye(D, dtype=torch.float64)),
        "correlated": gaussian(correlation()),
        "mixture": Mixture(
            torch.tensor([0.4, 0.6]), torch.cat([bump, -bump]), torch.stack([narrow, narrow])
        ),
    }


def state_prior(truth: Mixture, solver: object) -> Prior:
    """The prior a solver sees: pixels, or for PSLD the same images behind an orthogonal decoder.

    Solvers in VP coordinates step along DDPM's table, as their papers do (latents: latent diffusion's).
    """
    first, shape = Turn(), (1, SIDE, SIDE)
    if isinstance(solver, PSLD):
        turned = Mixture(
            truth.weights,
            truth.means @ first.Q.T / S0,
            first.Q @ truth.covariances @ first.Q.T / S0**2,
        )
        turned.register_buffer("alpha_bar", Table("scaled_linear").alpha_bar())
        return LatentPrior(turned, shape, first)
    if not isinstance(solver, (ReSample, CoDPS, DPSLikelihood)):
        return Prior(truth, shape, LOW, TOP)
    stepped = copy.copy(truth)
    stepped._buffers = {**truth._buffers, "alpha_bar": Table("linear").alpha_bar()}
    return Prior(stepped, shape)
