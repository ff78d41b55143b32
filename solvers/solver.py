"""What a solver is: what every one does before its algorithm's first line and after its last, and what is refused at once."""

import typing
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, partial
from typing import ClassVar

import torch
from torch import Tensor

from data.files import Refusal
from data.seeding import Noise, Tied
from ldm import sampling
from ldm.denoiser import Prior
from solvers.beliefs import Belief, state_variance
from solvers.condition import condition
from solvers.discrepancy import meet_noise_level
from solvers.operators.base import LinearOperator, Operator, Scalar, per_image
from solvers.problem import Problem

BLACK = -1.0  # what patch priors have around their images
OPEN = 0.1  # of the noise level, which the update itself may leave

Saved = tuple[int, Tensor, list[Tensor]]  # a run's last step, its state, the states of its streams
Move = tuple[float, Tensor, Tensor]  # the noise level a step began at, the state after it, its x0


class Step:
    """One step of a solver: x in the solver's own space and scaling; the last x0 is the result, an image in [-1, 1].

    t: step counter from 0. sigma: prior noise level the step started from. x: state [B,...]. x0: the current estimate
    of the image [B,C,H,W], given as a tensor or as a function that makes it, so that nobody decodes what nobody sees.
    """

    def __init__(self, t: int, sigma: float, x: Tensor, x0: Tensor | Callable[[], Tensor]):
        self.t, self.sigma, self.x, self._x0 = t, sigma, x, x0

    @property
    def x0(self) -> Tensor:
        if not isinstance(self._x0, Tensor):
            with torch.no_grad():
                self._x0 = self._x0()
        return self._x0


class Chain:
    """One run on a batch: its levels, the measurement of images and as the prior's state sees it, a random stream per image."""

    def __init__(self, problem: Problem, prior: Prior, noise: Noise, levels: list[float]):
        self.given, self.prior, self.noise, self.levels = problem, prior, noise, levels
        self.own = problem.in_own_units()  # of y: what steps whose size has units descend
        self.own_seen = self.own.seen_by(prior)  # as a function of the prior's state
        self.problem = self.own.whitened()
        self.taken_up: Tensor | None = None  # the state of an earlier run, which goes on from there
        prior.begin(levels)
        self.offset = noise.of("offset")  # of patch priors

    @cached_property
    def seen(self) -> Problem:
        """The measurement as a function of the prior's state."""
        return self.problem.seen_by(self.prior)

    def begin(self, start: Callable[[], Tensor]) -> Tensor:
        """The first state: `start()`, or that of an interrupted run."""
        return start() if self.taken_up is None else self.taken_up

    def start(self) -> Tensor:
        """N(0, I) in the prior's state space."""
        return self.prior.coupled(sampling.start(self.prior, self.noise, self.problem.y))

    @property
    def fresh(self) -> Noise:
        """The noise that is added to states: slices of a volume may share it (`Prior.coupled`)."""
        return Tied(self.noise, self.prior.coupled)

    def denoise(self, x: Tensor, sigma: Scalar) -> Tensor:
        """D(x, sigma) = E[x0 | x]; VE coordinates. sigma: a number, or one of each image [B]."""
        return self.prior.denoise(x, sampling.full(sigma, x), self.offset)

    def tweedie(self, x_t: Tensor, a: float, clip: bool = False) -> Tensor:
        """E[x0 | x_t] at alpha_bar = a, VP coordinates; with clip, clamped to [-1, 1] where the state is an image."""
        x0 = sampling.tweedie(self.prior, x_t, a, self.offset)
        return x0 if self.decodes or not clip else sampling.clipped(x0)

    @property
    def decodes(self) -> bool:
        """Whether y is seen through a decoder."""
        return self.prior.kind == "latent"

    def framed(self, state: Tensor, border: float = BLACK) -> Tensor:
        """A patch state with its border, which belongs to no image, set to one value; other states as they are."""
        return self.prior.pad(self.prior.crop(state), border) if not self.decodes else state

    def view(self, belief: Belief) -> Problem:
        """The measurement as a function of what the belief is about."""
        return self.problem if belief.decoded else self.seen

    def place(self, belief: Belief, state: Tensor) -> Tensor:
        """A state as what the belief is about."""
        return self.prior.to_image(state) if belief.decoded else state

    def state(self, belief: Belief, x: Tensor) -> Tensor:
        """The inverse of `place`."""
        return self.prior.to_state(x) if belief.decoded else x

    def mean(self, belief: Belief) -> Tensor:
        """E[x | y] as a state; V, where it was measured, scaled to the residual of each image."""
        seen = self.view(belief)
        return self.state(belief, condition(belief.scaled_to_residual(seen, self.noise), seen))

    def last_belief(self, x0: Tensor, sigma: float) -> Belief:
        """Of the state at the last level, with the variance of its largest sigma, lest an overconfident one keep x from y."""
        belief = Belief.of(self.prior, x0, sigma, self.problem, pixels=False)
        return belief.with_variance(state_variance(self.prior, self.prior.sigma_max))


class Solver:
    """A frozen dataclass of settings with its paper's symbols; `sample` is the algorithm.

    `solver(problem, prior, noise)` yields a Step for each noise level, `solve` returns the images they end with.
    """

    steps: int  # noise levels, what `--steps` sets
    polish: bool = False  # latent priors: one pixel-space update at the end
    uses_prior: ClassVar[bool] = True  # False: nothing but the shape of its images
    volumes: ClassVar[bool] = False  # whether it restores volumes, as `condition` can
    resumable: ClassVar[bool] = False  # whether its state between two levels is x alone
    single: ClassVar[bool] = False  # whether all draws of an image are alike

    def levels(self, problem: Problem, prior: Prior) -> list[float]:
        """The noise levels of a run and where the last step ends: sigma down to 0, or alpha_bar up to 1."""
        raise NotImplementedError

    def sample(self, chain: Chain) -> Iterator[Move]:
        """The algorithm: for each pair of neighbouring levels its noise level, the new state, and the estimate it was made of."""
        raise NotImplementedError

    def shown(self, chain: Chain, x0: Tensor) -> Tensor:
        """The image of an estimate of the clean state."""
        return chain.prior.to_image(x0)

    def result(self, chain: Chain, move: Move) -> Tensor:
        """The image [B,C,H,W] that a run ends with, from its last move."""
        return final_image(chain.prior, move[1], chain.problem, self.polish)

    def check(self, problem: Problem, prior: Prior) -> None:
        """Raise Refusal, in one line, for what this algorithm cannot solve."""
        self.levels(problem, prior)

    def posterior(self, prior: Prior, operator: Operator) -> bool:
        """Whether draws spread as the posterior does, as far as V is right."""
        return False

    def mean(self, draws: Tensor, problem: Problem, prior: Prior, seed: int, rows: int) -> Tensor:
        """The best single image [C,H,W] that draws [K,C,H,W] tell; `rows` of them go through a network at once."""
        return draws.mean(0)

    def streams(self, rows: Iterable[int], k: int) -> list[int]:
        """Which stream of random numbers each of these rows has, where every image has k."""
        return [0 if self.single else row % k for row in rows]

    @torch.no_grad()
    def __call__(
        self, problem: Problem, prior: Prior, noise: Noise, saved: Saved | None = None
    ) -> Iterator[Step]:
        """Steps of a batch; noise: one stream for each of its images, of purpose `solver`. saved: where to go on."""
        levels = self.levels(problem, prior)
        chain, first = Chain(problem, prior, noise, levels), 0
        if saved is not None:
            done, x, states = saved
            first = done + 1
            chain.levels, chain.taken_up = levels[first:], x.to(problem.y)
            for generator, state in zip(noise.generators, states):
                generator.set_state(state)
        for t, move in enumerate(self.sample(chain), first):
            sigma, x, x0 = move
            last = t == len(levels) - 2
            image = self.result(chain, move) if last else partial(self.shown, chain, x0)
            yield Step(t, sigma, x, image)

    def solve(
        self, problem: Problem, prior: Prior, noise: Noise | None = None,
        *, seed: int = 0, draws: int | None = None,
    ) -> Tensor:  # fmt: skip
        """The images [B,C,H,W] of a run to its end; with `draws`, so many of each, [B,draws,C,H,W]. Raises Refusal at once.

        noise: the streams, one for each image and draw, an image's draws in a row; by default those of this seed.
        """
        check(self, problem, prior)
        count = draws or 1
        many = problem.repeat(count)
        if noise is None:
            noise = Noise(many.ids, "solver", seed, self.streams(range(len(many.ids)), count))
        *_, last = self(many, prior, noise)
        return last.x0 if draws is None else last.x0.unflatten(0, (-1, count))


def final_image(prior: Prior, state: Tensor, problem: Problem, polish: bool = True) -> Tensor:
    """The image of a last state: a latent is decoded with its codebook, or without where the codebook spoils the fit to y.

    With polish that image is then moved by at most the autoencoder's error, so that y is met to the noise level.
    """
    if prior.kind == "pixel":
        return prior.to_image(state)
    coded, free = prior.decode(state, quantize=True), prior.decode(state, quantize=False)
    enough = problem.residual(free)
    enough = enough.clamp_min(1) + OPEN if problem.sigma_y > 0 else enough
    image = torch.where(per_image(problem.residual(coded) <= enough, coded).bool(), coded, free)
    if not (polish and prior.error_variance > 0):
        return image
    belief = Belief.of_image(prior, image, prior.sigma_min, problem)
    return meet_noise_level(belief.with_variance(prior.error_variance), problem)


def check(solver: Solver, problem: Problem, prior: Prior) -> None:
    """Raise Refusal, in one line and before any network runs, for what cannot be solved."""
    for name in ("levels", "sample") if type(solver).__call__ is Solver.__call__ else ():
        if getattr(type(solver), name) is getattr(Solver, name):
            raise Refusal(f"{type(solver).__name__} has no `{name}`, which every solver needs")
    images, given = tuple(prior.image_shape), tuple(problem.y.shape)
    expected = tuple(problem.operator.shape_out(images))
    if given != (len(problem.ids), *expected):
        due = f"which measures {expected} of images {images}"
        raise Refusal(f"measurement of shape {given[1:]} does not fit the operator, {due}")
    if not bool(torch.isfinite(problem.y).all()):
        bad = [i for i, row in zip(problem.ids, problem.y) if not bool(torch.isfinite(row).all())]
        raise Refusal(f"measurement of {', '.join(bad)} holds values that are not finite")
    solver.check(problem, prior)


def need_linear(name: str, operator: Operator, prior: Prior | None = None) -> None:
    """For solvers that invert A: refuse nonlinear operators and, when the prior is given, those behind a decoder."""
    if not isinstance(operator, LinearOperator):
        said = f"not {type(operator).__name__}; DAPS, DPS and ReSample take any"
        raise Refusal(f"{name} needs a linear operator, {said}")
    if prior is not None:
        need_pixels(name, prior, "no operator is linear behind a decoder")


def need_pixels(name: str, prior: Prior, why: str) -> None:
    """Refuse latent priors."""
    if prior.kind == "latent":
        others = "DAPS, ReSample and PSLD go there"
        raise Refusal(f"{name} needs a pixel or patch prior: {why}; {others}")


def positive(settings: object, *names: str) -> None:
    """Refuse fields that are not positive: whole numbers below 1, others not above 0. None passes: such a field is unset."""
    kinds = typing.get_type_hints(type(settings))
    for name in names:
        value, count = getattr(settings, name), kinds[name] in (int, int | None)
        if value is not None and not (value >= 1 if count else value > 0):
            raise Refusal(f"{name} must be {'at least 1' if count else 'above 0'}, not {value}")


def fraction(settings: object, *names: str) -> None:
    """Refuse numbers outside [0, 1], by their field names."""
    for name in names:
        if not 0 <= getattr(settings, name) <= 1:
            raise Refusal(f"{name} must lie in [0, 1], not {getattr(settings, name)}")
