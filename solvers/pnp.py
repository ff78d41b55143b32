"""Plug and play: one good image in a few network calls, by half-quadratic splitting (Zhang et al. 2021, DPIR)."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from data.files import Refusal
from data.seeding import Tied
from ldm.denoiser import Prior
from ldm.sampling import ve_levels
from solvers.beliefs import COARSE, IMAGE_DEVIATION, Belief, Isotropic, deviation
from solvers.discrepancy import meet_noise_level
from solvers.operators.base import Scalar
from solvers.problem import Problem
from solvers.solver import Chain, Move, Solver, positive
from solvers.tv import smoothed_along_slices


@dataclass(frozen=True)
class PnP(Solver):
    """The prior and the measurement take turns at noise levels sigma_1 > ... > sigma_N:

        z = D(x + s_k sigma_k n, sigma_k),  s_k = 1, -1, 1, ...
        x = argmin |A x - y|^2 / sigma_y^2 + |x - z|^2 / V_k = E[x | y] for x ~ N(z, V_k)

    What x errs by at first is what the classical answer left, like aliasing and streaks, and D was trained on white noise only.
    So down to `sigma_quiet` as much noise as D expects is put on x, n ~ N(0, I), and drowns the rest (as in DiffPIR, Zhu et al.
    2023); z then errs as D did in training, and V_k is Cov[x0 | x] as it was measured there at each frequency, which says what
    entries that y tells mean for those that it leaves open. Below, n = 0 and V_k = sigma_k^2 / lambda, the first paper's step
    (its equation 6); so it is under blurs and CT without a missing wedge, which leave nothing open (`Operator.gaps`). Under
    masks of pixels V_k is the measured one throughout. n is drawn once, and its sign changes from level to level: what z keeps of
    one level's noise the next takes back, where noise drawn anew each time would add up. The last update takes the share of V
    that explains y to the noise level (Morozov).

    All draws of an image have the same n: how images differ by n says nothing of what y leaves open.

    Where y is the image itself with white noise, y is what D was trained on, and D(y, sigma_y) the answer, in one call.
    """

    volumes = True
    resumable = True
    single = True

    steps: int = 20  # N, calls of the network
    sigma_max: float | None = None  # the first level, for images in [-1, 1]; None: `enough`
    sigma_min: float = 0.02  # the last
    sigma_quiet: float = 0.1  # noise is added above it; infinite: never
    lam: float = 0.23  # lambda, the weight of z against y
    z_tv: float = 0.0  # volumes: weight, over sigma_k^2, of total variation along the slices (DiffusionMBIR, DDS), met before y

    def __post_init__(self) -> None:
        positive(self, "steps", "sigma_max", "sigma_min", "sigma_quiet", "lam")
        if not self.z_tv >= 0:
            raise Refusal(f"z_tv must be at least 0, not {self.z_tv}")

    def check(self, problem: Problem, prior: Prior) -> None:
        if self.z_tv and len(prior.image_shape) < 4:
            raise Refusal("z_tv ties the slices of a volume, and this is a single image")
        self.levels(problem, prior)

    def levels(self, problem: Problem, prior: Prior) -> list[float]:
        """Spread geometrically, and 0, where the last step ends; in a latent's own units."""
        noise = problem.noise_of_state(prior)
        if noise is not None:
            return [float(noise.max()), 0.0]
        most = self.sigma_max or self.enough(problem)
        unit = deviation(prior) / IMAGE_DEVIATION
        ends = unit * self.sigma_min, unit * most
        return [*ve_levels(prior, self.steps, *ends, "geometric"), 0.0]

    def enough(self, problem: Problem) -> float:
        """The first level: well above what the classical answer errs by, and more where y leaves coarse structure open."""
        return 4.0 if problem.operator.leaves_coarse else 1.5

    def sample(self, chain: Chain) -> Iterator[Move]:
        noise = chain.given.noise_of_state(chain.prior)
        if noise is not None:
            z = self.smooth(chain.denoise(self.start(chain), noise), noise.double())
            yield chain.levels[0], z, z
            return
        x = chain.begin(lambda: self.start(chain))
        n = self.noise(chain, x)
        for k, (sigma, sigma_next) in enumerate(pairwise(chain.levels)):
            if self.noisy(chain, sigma):
                to_go = len(chain.levels) - k  # which an interruption does not change
                x = x + (-1) ** to_go * sigma * n
            z = self.smooth(chain.denoise(x, sigma), sigma)
            x = chain.framed(chain.mean(self.belief(chain, z, sigma))) if sigma_next else z
            yield sigma, x, x

    def smooth(self, z: Tensor, sigma: Scalar) -> Tensor:
        """The slices of a volume tied together by total variation, if that is asked for."""
        return smoothed_along_slices(z, self.z_tv * sigma**2) if self.z_tv and z.ndim == 5 else z

    def start(self, chain: Chain) -> Tensor:
        """The operator's classical answer, or mid-gray where it has none."""
        problem, prior = chain.problem, chain.prior
        image = problem.operator.baseline(problem.y, prior.image_shape)
        if image is None:
            return problem.y.new_zeros(len(problem.y), *prior.shape)
        return prior.to_state(image)

    def noise(self, chain: Chain, x: Tensor) -> Tensor:
        """The one n of a run, N(0, I), the first numbers of its stream; again those where an interrupted run goes on."""
        if chain.taken_up is None:
            return chain.fresh.like(x)
        return Tied(chain.noise.of("solver"), chain.prior.coupled).like(x)

    def noisy(self, chain: Chain, sigma: float) -> bool:
        """Whether noise is added at this level."""
        return self.level(chain, sigma) > self.sigma_quiet

    def level(self, chain: Chain, sigma: float) -> float:
        """A state's noise in units of images."""
        return sigma * IMAGE_DEVIATION / deviation(chain.prior)

    def belief(self, chain: Chain, z: Tensor, sigma: float) -> Belief:
        """N(z, V), of the decoded image where the prior is a latent one."""
        operator = chain.problem.operator
        coarse = self.noisy(chain, sigma) and operator.gaps
        if coarse or getattr(operator, "elementwise", False):
            belief = Belief.of(chain.prior, z, sigma, chain.problem, pixels=True)
            return belief.changed(accuracy=COARSE) if coarse else belief
        image = chain.prior.to_image(z) if chain.decodes else z
        variance = self.level(chain, sigma) ** 2 / self.lam
        return Isotropic(image, variance).changed(decoded=chain.decodes)

    def result(self, chain: Chain, move: Move) -> Tensor:
        sigma, z, _ = move
        belief = Belief.of(chain.prior, z, sigma, chain.problem, pixels=True)
        if chain.given.noise_of_state(chain.prior) is not None:
            belief = belief.isotropic(1.0)  # sigma is not each image's own there
        most = belief.with_variance(
            IMAGE_DEVIATION**2
        )  # so that no overconfident prior keeps x away from y
        x = meet_noise_level(most, chain.view(belief))
        return x if belief.decoded else chain.prior.to_image(x)
