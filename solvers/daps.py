"""DAPS, decoupled annealing posterior sampling (Zhang et al. 2025), for pixel, latent and patch priors alike."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from typing import Literal

import torch
from torch import Tensor

from data.seeding import Noise
from ldm.denoiser import Prior
from ldm.schedule import karras
from solvers.condition import condition, conditioned
from solvers.covariance import Covariance
from solvers.descent import misfit
from solvers.langevin import hmc, langevin, metropolis, squared
from solvers.operators.base import Operator, Scalar
from solvers.problem import Problem
from solvers.state import BLACK, belief, by_frequency, covariance, drawn, image_covariance, inside, met, result, shown
from solvers.step import Step, fraction, need_linear, positive
from solvers.steps import full, pf_ode, start, ve_levels


@dataclass(frozen=True)
class DAPS:
    """VE coordinates, x = x0 + sigma n; DAPS algorithm 1: draw x0 ~ p(x0 | x, y), put noise of the next level on it.

    inner: `exact` draws x0 from N(D(x), V) met with y, V = Cov[x0 | x], in one conditional update (Gauss-Newton where A
    is not linear). The others are the published form: a probability-flow ODE to x0_hat, then a Markov chain around it.
    """

    steps: int = 200  # annealing levels N
    sigma_max: float | None = 100.0  # the first, in the state's units (images: [-1, 1]); None: 1 by `measured`, else 10
    sigma_min: float = 0.1  # the last
    inner: Literal["exact", "langevin", "hmc", "mh"] = "exact"
    covariance: Literal["measured", "heuristic", "trace", "operator"] = "measured"  # V: of each frequency as training found it
    # (a latent's as its image; a number where nobody looked), one number for each sigma, tr/n, or whole
    s0: float | None = None  # of s0^2 sigma^2/(s0^2+sigma^2) for `heuristic`; default: the measured mean, else 0.5 (latents: 1)
    newton: int = 2  # Gauss-Newton steps of a draw through a decoder ...
    cg: int = 10  # ... and conjugate gradients in each
    rank: int = 30  # Lanczos vectors for the square root of the whole covariance
    ode: Literal["euler", "heun"] = "euler"
    ode_steps: int = 5  # K
    ode_sigma_min: float = 0.01  # where the ODE ends
    M: int = 100  # steps of the chain
    lr: float = 1e-4  # its step at the first level
    lr_min_ratio: float = 0.01  # of lr, reached linearly at the end of the annealing
    tau: float = 0.01 / 2**0.5  # likelihood deviation of the chain; the published code's 0.01 lacks the factor 1/2
    momentum: float = 0.9  # of hmc
    clamp: float | None = None  # bound of the entries of grad |A x - y|^2 (1 in the published latent form)
    final_denoise: bool = False  # end with D(x0, sigma_min); the exact draw needs none
    polish: bool = True  # latent priors: one pixel-space update at the end, a draw where V is known by frequency

    def __post_init__(self) -> None:
        positive(self, "steps", "newton", "cg", "rank", "ode_steps", "M")
        positive(self, "s0", "ode_sigma_min", "lr", "lr_min_ratio", "tau", "clamp")
        fraction(self, "momentum")

    def check(self, problem: Problem, prior: Prior) -> None:
        if self.inner == "exact" and self.covariance == "operator":
            need_linear("covariance: operator", problem.operator, prior)
        self.levels(problem, prior)

    @torch.no_grad()
    def __call__(self, problem: Problem, prior: Prior, noise: Noise) -> Iterator[Step]:
        problem = problem.whitened()
        seen, offset = problem.seen_by(prior), noise.of("offset")
        levels = self.levels(problem, prior)
        x = levels[0] * start(prior, noise, problem.y)
        for t, (sigma, sigma_next) in enumerate(pairwise([*levels, 0.0])):
            if sigma_next == 0 and self.ends_in_pixels(prior, problem.operator):
                x = prior.denoise(x, full(sigma, x), offset)
                yield Step(t, sigma, x, drawn(prior, prior.to_image(x), sigma, problem, noise))
                return
            if self.inner == "exact":
                x0 = inside(prior, self.draw(x, sigma, problem, prior, noise, offset), BLACK)
            else:
                x0_hat = pf_ode(prior, x, self.ode_levels(sigma), offset, self.ode == "heun")
                x0 = self.chain(x0_hat, sigma, t / (self.steps + 1), seen, noise)
            x = x0 + sigma_next * noise.like(x0)
            if sigma_next > 0:
                yield Step(t, sigma, x, shown(prior, x0))
        if self.final_denoise:
            x = prior.denoise(x, full(levels[-1], x), offset)
        yield Step(t, sigma, x, result(prior, x, problem, self.polish))

    def draw(self, x: Tensor, sigma: float, problem: Problem, prior: Prior, noise: Noise, offset: Noise) -> Tensor:
        """A draw of x0 | x, y under the belief N(D(x), V). It is exact, except where V is known by frequency: there the draw
        before y, u, has V's mean variance but white noise.
        """
        seen = problem.seen_by(prior)
        if self.covariance in ("trace", "operator"):
            tweedie = Covariance(prior, x, sigma, offset)
            if self.covariance == "operator":
                return conditioned(tweedie.sample(noise.like(x), self.rank), tweedie, seen, noise, tolerance=0.01).x
            m: Tensor = tweedie.mean
            v: Scalar = tweedie.trace(inside(prior, noise.like(x).sign(), 0.0))
        else:
            m, v = prior.denoise(x, full(sigma, x), offset), belief(prior, sigma, self.s0)
            if self.by_frequency(prior, problem.operator):
                u = m + sqrt(v) * noise.like(m)  # noise of V's colour would look like anatomy to the next D (1.5 dB of CT)
                if prior.kind == "pixel":
                    return met(m, covariance(prior, sigma, m, problem), seen, noise, u)
                image = prior.to_image(m)  # pixels say more of their neighbours than latents do
                V = image_covariance(prior, sigma, image, problem)
                return prior.to_state(met(image, V, problem, noise, prior.to_image(u)))
        if prior.kind == "pixel":
            return condition(m, v, seen, noise)
        return conditioned(m, v, seen, noise, cap=self.cg, steps=self.newton).x

    def by_frequency(self, prior: Prior, operator: Operator) -> bool:
        """Whether V is what training found, and known by frequency."""
        asked = self.inner == "exact" and self.covariance == "measured" and self.s0 is None
        return asked and by_frequency(prior, operator)

    def ends_in_pixels(self, prior: Prior, operator: Operator) -> bool:
        """Whether the last draw is of the image: a latent cannot hold what its autoencoder errs by."""
        return prior.kind == "latent" and self.polish and not self.final_denoise and self.by_frequency(prior, operator)

    def posterior(self, prior: Prior, operator: Operator) -> bool:
        """Whether draws spread as the posterior does, as far as V is right."""
        return self.inner == "exact" and (prior.kind == "pixel" or self.ends_in_pixels(prior, operator))

    def levels(self, problem: Problem, prior: Prior) -> list[float]:
        """From sigma_max to sigma_min. A V that knows frequencies lets y say all that coarser levels than 1 could find."""
        enough = 1.0 if prior.kind == "pixel" and self.by_frequency(prior, problem.operator) else 10.0
        return ve_levels(prior, self.steps, self.sigma_min, enough if self.sigma_max is None else self.sigma_max)

    def ode_levels(self, sigma: float) -> list[float]:
        """K + 1 levels from sigma to where the ODE ends; below that there is nothing left to integrate."""
        return karras(self.ode_steps + 1, self.ode_sigma_min, sigma).tolist() if sigma > self.ode_sigma_min else [sigma]

    def chain(self, x0_hat: Tensor, sigma: float, progress: float, seen: Problem, noise: Noise) -> Tensor:
        """M steps of the published Markov chain, started at x0_hat."""
        lr = self.lr * (1 + progress * (self.lr_min_ratio - 1))

        def score(x: Tensor) -> Tensor:
            gradient = 2 * misfit(seen, x)[1]
            gradient = gradient if self.clamp is None else gradient.clamp(-self.clamp, self.clamp)
            return -gradient / (2 * self.tau**2) - (x - x0_hat) / sigma**2

        def energy(x: Tensor) -> Tensor:
            r = seen.operator.forward(x) - seen.y
            return squared(r) / (2 * self.tau**2) + squared(x - x0_hat) / (2 * sigma**2)

        if self.inner == "langevin":
            return langevin(x0_hat, score, lr, self.M, noise)
        if self.inner == "hmc":
            return hmc(x0_hat, score, lr, self.M, self.momentum, noise)
        return metropolis(x0_hat, energy, lr, self.M, noise)
