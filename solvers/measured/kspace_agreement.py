"""Whether k-space, its mask, coils and noise can belong together: the residual of least squares against the noise."""

from collections.abc import Callable

from torch import Tensor

from data.files import Refusal
from solvers.measured.noise_level import estimated_sigma_y
from solvers.operators.algebra import conjugate_gradients, norm
from solvers.operators.kspace import to_complex, to_real
from solvers.operators.mri import MRI
from solvers.operators.mri_coils import CoilImages
from solvers.problem import Gaussian, Problem, Varying

STEPS = 12  # of conjugate gradients
MUCH = (
    0.3  # of y, that no image explains; scans with errors of their maps and phase leave 0.02 to 0.1
)
BETTER = 0.6  # of the misfit, that another reading leaves, to be named
LOUD = 50.0  # times the mean power, that frequency 0 has at least
OFF = 3.0  # times the noise that is said

READINGS: dict[
    str, Callable[[Tensor], Tensor]
] = {  # what y may be instead, of complex k-space [1,C,H,W]
    "real and imaginary parts exchanged": lambda k: 1j * k.conj(),
    "the complex conjugate": lambda k: k.conj(),
    "rows and columns exchanged": lambda k: k.mT if k.shape[-1] == k.shape[-2] else k,
    "rows in the other order": lambda k: k.flip(-2),
    "columns in the other order": lambda k: k.flip(-1),
}


def check(problem: Problem) -> None:
    """Raise Refusal where no image explains y, naming the reading that would fit if one does, and for noise y does not have.

    What maps and phase were themselves estimated from cannot contradict them: a scan that is mirrored as a whole shows nothing.
    """
    for row, image_id in enumerate(problem.ids):
        one = problem.select([row])
        _check_middle(to_complex(one.stored())[0], image_id)
        left, noises = misfit(one, one.y)
        if left > MUCH and noises > OFF:
            raise Refusal(
                f"{image_id}: no image explains {left:.0%} of its k-space; {_advice(one, left)}"
            )
        if noises < _expected(one) / OFF:
            sigma_y = _sigma(one)
            raise Refusal(
                f"{image_id}: sigma_y {sigma_y:g}, but the best image leaves {noises:.2g} times as much: it is too large"
            )
        _check_one_coil(one, image_id)


def check_trajectory(problem: Problem, where: str) -> None:
    """Raise Refusal where no image explains samples along a trajectory: another scan's, or in another order."""
    left, noises = misfit(problem, problem.y)
    if left > MUCH and noises > OFF:
        raise Refusal(
            f"{where}: no image explains {left:.0%} of its k-space; its trajectory is another scan's, or in another order"
        )


def _check_middle(k: Tensor, image_id: str) -> None:
    """Frequency 0 is the loudest of every image; elsewhere than in the middle it makes an image that changes sign."""
    power = k.abs().square().sum(0)
    place = divmod(int(power.argmax()), power.shape[1])
    middle = [n // 2 for n in power.shape]
    far = any(abs(at - m) > max(n // 8, 2) for at, m, n in zip(place, middle, power.shape))
    if far and float(power.max()) > LOUD * float(power.mean()):
        raise Refusal(
            f"{image_id}: its k-space is loudest at {list(place)}; frequency 0 at {middle} is allowed (fftshift)"
        )


def misfit(problem: Problem, y: Tensor) -> tuple[float, float]:
    """What an image leaves of y: as a share of y, noise taken off, and in units of the noise."""
    A = problem.operator
    assert isinstance(A, CoilImages)
    x = conjugate_gradients(lambda p: A.adjoint(A.forward(p)), A.adjoint(y), cap=STEPS).x
    left, m = float(norm(y - A.forward(x))), float(A.measured(y)[0])
    sigma = _sigma(problem)
    unexplained = max(left**2 - m * sigma**2, 0.0) ** 0.5
    whole = float(norm(problem.stored()))
    return unexplained / max(whole, 1e-30), left / (sigma * m**0.5) if sigma > 0 else float("inf")


def _advice(problem: Problem, left: float) -> str:
    A, stored = problem.operator, to_complex(problem.stored())
    constant = problem.stored() - problem.y
    for name, reading in READINGS.items():
        y = A.restrict(to_real(reading(stored)) - constant)
        if misfit(problem, y)[0] < BETTER * left:
            return f"with {name} it would"
    return "mask, sensitivities or axes are not this scan's"


def _expected(problem: Problem) -> float:
    """Of the noise that least squares leave at least, if it is what is said; 0 where that says nothing."""
    if _sigma(problem) == 0 or problem.operator.shape is None:
        return 0.0
    unknown = 1.0
    for n in problem.operator.shape:
        unknown *= n
    return max(1 - unknown / float(problem.operator.measured(problem.y)[0]), 0.0) ** 0.5


def _check_one_coil(problem: Problem, image_id: str) -> None:
    """Real images of one coil show their noise directly."""
    A, sigma = problem.operator, _sigma(problem)
    if not isinstance(A, MRI) or A.sensitivities is not None or A.complex_image or sigma == 0:
        return
    alone = A.noise_alone(problem.y)
    if alone is None or int((alone != 0).sum()) < 512:
        return
    found = float(estimated_sigma_y(problem))
    if not sigma / OFF < found < sigma * OFF:
        raise Refusal(f"{image_id}: sigma_y {sigma:g}, but its k-space has noise of {found:.2g}")


def _sigma(problem: Problem) -> float:
    """The noise, as its root mean square where entries have their own; 0 where nobody knows it."""
    if isinstance(problem.likelihood, Varying):
        deviation = problem.operator.restrict(problem.likelihood.deviation.to(problem.y))
        return float(deviation[deviation != 0].square().mean().sqrt())
    known = isinstance(problem.likelihood, Gaussian) and problem.likelihood.sigma_y is not None
    return problem.sigma_y if known else 0.0
