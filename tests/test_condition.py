"""The one update: closed forms against dense algebra, draws against the exact Gaussian posterior, Gauss-Newton, discrepancy."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import pytest
import torch
from torch import Tensor

from data.seeding import Noise
from solvers.beliefs import Belief, Spectral
from solvers.condition import condition, conditioned, plain
from solvers.discrepancy import discrepancy
from solvers.operators import MRI, KernelBlur
from solvers.operators.base import LinearOperator, Operator, norm
from solvers.operators.mri_noncartesian import NonCartesianMRI
from solvers.operators.mri_recipes import simulated
from solvers.operators.wrapper import Composed, Seen
from solvers.problem import Clean, Gaussian, Problem, measure
from tests.operator_list import LINEAR, Case

SHAPE = (1, 3, 4)


@dataclass(frozen=True, eq=False)
class Dense(LinearOperator):
    """y = M x, by conjugate gradients unless told to be exact."""

    M: Tensor  # [1,m,n]
    closed: bool = False

    @property
    def exact(self) -> bool:
        return self.closed

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack(
            [self.M[0] @ row for row in x.flatten(1)]
        )  # row by row, so that batches round alike

    def adjoint(self, y: Tensor) -> Tensor:
        return torch.stack([(self.M[0].T @ row).reshape(SHAPE) for row in y])

    def solve(self, r: Tensor, s2, v) -> Tensor:
        G, eye = self.M[0] @ self.M[0].T, torch.eye(self.M.shape[1], dtype=r.dtype)
        s2, v = (torch.as_tensor(a, dtype=r.dtype).expand(len(r)) for a in (s2, v))
        return torch.stack(
            [torch.linalg.solve(a * eye + b * G, row) for a, b, row in zip(s2, v, r)]
        )


@dataclass(frozen=True, eq=False)
class Mask(LinearOperator):
    mask: Tensor  # [1 or B,C,H,W]
    elementwise = True

    def forward(self, x: Tensor) -> Tensor:
        return self.mask * x

    adjoint = restrict = forward

    def measured(self, y: Tensor) -> Tensor:
        return self.mask.expand_as(y).flatten(1).sum(1)


class Whole(Belief):
    """V = L L^T, L [n,n]; without a root at hand."""

    rooted = False

    def __init__(self, mean: Tensor, L: Tensor):
        self.mean, self.L = mean, L

    def apply(self, x: Tensor) -> Tensor:
        return (x.flatten(1) @ (self.L @ self.L.T)).reshape(x.shape)


def believed(m: Tensor, v) -> Belief:
    return v(m) if callable(v) else plain(m, v)


@dataclass(frozen=True, eq=False)
class Cubic(Operator):
    M: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return (x + 0.3 * x**3).flatten(1) @ self.M[0].T


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ids(count: int) -> tuple[str, ...]:
    return tuple(f"image{i}" for i in range(count))


def problem(operator: Operator, batch: int = 3, sigma_y: float = 0.3) -> Problem:
    y = operator.forward(normal(batch, *SHAPE, seed=5))
    return Problem(y + sigma_y * normal(*y.shape, seed=6), operator, Gaussian(sigma_y), ids(batch))


def posterior_mean(M: Tensor, V: Tensor, m: Tensor, y: Tensor, s2: float) -> Tensor:
    K = V @ M.T @ torch.linalg.inv(s2 * torch.eye(len(M)).double() + M @ V @ M.T)
    return m + (K @ (y - M @ m.flatten())).reshape(m.shape)


M = normal(1, 7, 12, seed=1)
DIAGONAL = normal(3, *SHAPE, seed=2).abs() + 0.1
L = 0.4 * normal(12, 12, seed=3)


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("kind", ["number", "rows", "diagonal", "operator"])
def test_mean_equals_dense_algebra(closed: bool, kind: str) -> None:
    v = {
        "number": 0.7,
        "rows": torch.tensor([0.1, 1.0, 4.0], dtype=torch.float64),
        "diagonal": DIAGONAL,
        "operator": lambda m: Whole(m, L),
    }[kind]
    eye = torch.eye(12).double()
    V = {
        "number": [0.7 * eye] * 3,
        "rows": [a * eye for a in (0.1, 1.0, 4.0)],
        "diagonal": [torch.diag(d.flatten()) for d in DIAGONAL],
        "operator": [L @ L.T] * 3,
    }[kind]
    p, m = problem(Dense(M, closed)), normal(3, *SHAPE, seed=9)
    found = conditioned(believed(m, v), p, accuracy=1e-12)
    for i in range(3):
        torch.testing.assert_close(
            found.x[i], posterior_mean(M[0], V[i], m[i], p.y[i], 0.09), rtol=1e-9, atol=1e-10
        )


def test_a_mask_meets_a_diagonal_without_iterations() -> None:
    mask = (normal(3, *SHAPE, seed=4) > 0).double()
    p, m = problem(Mask(mask)), normal(3, *SHAPE, seed=9)
    found = conditioned(plain(m, DIAGONAL), p)
    torch.testing.assert_close(
        found.x, m + DIAGONAL * mask / (0.09 + DIAGONAL * mask) * (p.y - mask * m)
    )
    assert int(found.iterations.sum()) == 0


@pytest.mark.parametrize("v", [0.5, torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64)])
def test_without_noise_the_measurement_is_met(v) -> None:
    mask = (normal(3, *SHAPE, seed=4) > 0).double()
    for operator in (Dense(M, True), Dense(M), Mask(mask)):
        y = operator.forward(normal(3, *SHAPE, seed=5))
        x = condition(normal(3, *SHAPE, seed=9), v, Problem(y, operator, Clean(), ids(3)))
        assert torch.isfinite(x).all()
        rows = slice(1, None) if isinstance(v, Tensor) else slice(None)
        torch.testing.assert_close(
            operator.forward(x)[rows], y[rows], rtol=1e-5, atol=1e-5
        )  # CG stops at sqrt(eps)


@pytest.mark.parametrize(
    "operator", [Dense(M), Composed(Dense(M), torch.Tensor.clone)]
)  # the latter by Gauss-Newton
@pytest.mark.parametrize("kind", ["number", "diagonal", "frequency"])
def test_without_noise_the_mean_is_the_limit(kind: str, operator: Operator) -> None:
    """Rounding, divided by no noise, must not fill what y does not see: conjugate gradients leave sqrt(eps) of |r|."""
    density = 0.1 + normal(1, 1, 3, 3, seed=7).square()
    density[..., 2, 0], density[..., 2, 2] = (
        density[..., 1, 0],
        density[..., 1, 2],
    )  # real images: the same at k and -k
    v = {"number": 0.7, "diagonal": DIAGONAL[:1], "frequency": lambda m: Spectral(m, density)}[kind]
    eye = torch.eye(12).double()
    m, y = normal(1, *SHAPE, seed=9), normal(1, 7, seed=8)
    belief = believed(m, v)
    V = belief.around(torch.zeros(12, *SHAPE).double()).apply(eye.reshape(12, *SHAPE)).flatten(1)
    x = condition(belief, Problem(y, operator, Clean(), ids(1)))
    expected = posterior_mean(M[0], V, m[0], y[0], 0.0)
    assert float((x[0] - expected).norm()) < 1e-6 * float(norm(y - operator.forward(m)))


@pytest.mark.parametrize("sigma_y", [1e-3, 1e-6, 1e-9])
@pytest.mark.parametrize(
    "operator", [Dense(0.3 * M.float()), Composed(Dense(0.3 * M.float()), torch.Tensor.clone)]
)
def test_little_noise_in_float32_leaves_the_unseen_alone(
    operator: Operator, sigma_y: float
) -> None:
    """Of A^T r a part of 1e-7 is rounding: divided by sigma_y^2 it would fill what y does not see, or overflow."""
    m, y = normal(2, *SHAPE, seed=9), 0.3 * normal(2, 7, seed=8)
    x = condition(m.float(), 0.7, Problem(y.float(), operator, Gaussian(sigma_y), ids(2)))
    for row, b, c in zip(x, m, y):
        expected = posterior_mean(0.3 * M[0], 0.7 * torch.eye(12).double(), b, c, sigma_y**2)
        torch.testing.assert_close(
            row.double(), expected, rtol=0, atol=1e-3
        )  # of the largest sigma_y


def test_v_zero_keeps_the_belief() -> None:
    m = normal(3, *SHAPE, seed=9)
    for sigma_y in (0.0, 0.3):
        torch.testing.assert_close(condition(m, 0.0, problem(Dense(M, True), sigma_y=sigma_y)), m)


@pytest.mark.parametrize("closed", [True, False])
def test_images_do_not_influence_each_other(closed: bool) -> None:
    p, m, v = (
        problem(Dense(M, closed)),
        normal(3, *SHAPE, seed=9),
        torch.tensor([0.01, 1.0, 100.0], dtype=torch.float64),
    )
    together = condition(m, v, p, Noise(p.ids, "solver"))
    for i in range(3):
        alone = condition(
            m[i : i + 1], v[i : i + 1], p.select([i]), Noise(p.ids[i : i + 1], "solver")
        )
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-12, atol=1e-12)


def test_conjugate_gradients_stop_at_the_noise_and_say_so() -> None:
    p, m = problem(Dense(M)), normal(3, *SHAPE, seed=9)
    found = conditioned(plain(m, 10.0), p)
    assert (found.residual <= 0.1 * 0.3 * 7**0.5).all() and (found.iterations >= 1).all()
    capped = conditioned(plain(m, 10.0), p, cap=2)
    assert (capped.iterations == 2).all() and (capped.residual > 0.1 * 0.3 * 7**0.5).any()


@pytest.mark.parametrize("closed", [True, False])
def test_discrepancy_leaves_the_noise_level(closed: bool) -> None:
    p = problem(Dense(M, closed))
    explains = (p.y @ torch.linalg.pinv(M[0]).T).reshape(3, *SHAPE)[
        :1
    ]  # A m = y: nothing left to explain
    m, p = torch.cat([normal(3, *SHAPE, seed=9), explains]), p.select([0, 1, 2, 0])
    target = 0.3 * 7**0.5
    found = discrepancy(plain(m, 50.0), p)
    v = found.variance
    after = norm(p.operator.forward(conditioned(found, p, accuracy=1e-10).x) - p.y)
    before = norm(p.operator.forward(m) - p.y)
    assert (v[before <= target] == 0).all() and (before <= target).any()
    torch.testing.assert_close(
        after[before > target], torch.full_like(after, target)[before > target], rtol=1e-5, atol=0
    )
    bound = discrepancy(plain(m, 1e-4), p).variance
    torch.testing.assert_close(
        bound[before > target], torch.full_like(bound, 1e-4)[before > target]
    )


def test_gauss_newton_on_a_linear_operator_is_the_update() -> None:
    p, m = problem(Composed(Dense(M), lambda x: x)), normal(3, *SHAPE, seed=9)
    linear = Problem(p.y, Dense(M, True), p.likelihood, p.ids)
    for v in (0.7, torch.tensor([0.1, 1.0, 4.0], dtype=torch.float64), DIAGONAL):
        found = conditioned(plain(m, v), p, accuracy=1e-12)
        torch.testing.assert_close(
            found.x, conditioned(plain(m, v), linear, accuracy=1e-12).x, rtol=1e-8, atol=1e-9
        )


def test_gauss_newton_finds_the_stationary_point() -> None:
    """At the minimum S^2 J^T (y - A x) / s2 = x - m, for every image, and a batch equals its images."""
    p, m = problem(Cubic(M), sigma_y=0.3), 0.1 * normal(3, *SHAPE, seed=9)
    noisy = condition(m, 0.5, p, Noise(p.ids, "solver"))
    u = m + 0.5**0.5 * (stream := Noise(p.ids, "solver")).normal(m.shape, torch.float64)
    y = p.y + 0.3 * stream.normal(p.y.shape, torch.float64)
    x = conditioned(plain(m, 0.5), p, Noise(p.ids, "solver"), accuracy=1e-8, newton=60).x
    J = p.operator.linearize(x)
    torch.testing.assert_close(0.5 * J.adjoint(y - J.value) / 0.09, x - u, rtol=1e-5, atol=1e-5)
    assert norm(noisy - x).max() < 0.5 * norm(x - m).min()
    alone = condition(m[1:2], 0.5, p.select([1]), Noise(p.ids[1:2], "solver"))
    torch.testing.assert_close(
        noisy[1:2], alone, rtol=1e-7, atol=1e-7
    )  # rounding, grown by truncated CG; a leak is O(1)


def test_a_view_of_the_state_is_conditioned_in_the_state() -> None:
    """A gray image seen as the mean of 3 channels: the dense operator is M [1 1 1] / 3."""
    seen = Seen(
        Dense(M, True),
        lambda x: x.mean(1, keepdim=True),
        lambda x: x.expand(-1, 3, -1, -1) / 3,
        1 / 3,
    )
    m = normal(3, 3, 3, 4, seed=9)
    p = Problem(seen.forward(normal(3, 3, 3, 4, seed=8)), seen, Gaussian(0.3), ids(3))
    x = condition(m, 0.7, p)
    dense = torch.cat([M[0]] * 3, 1) / 3
    torch.testing.assert_close(
        x[0], posterior_mean(dense, 0.7 * torch.eye(36).double(), m[0], p.y[0], 0.09)
    )


class OneStream(Noise):
    """All rows from one generator: thousands of draws of one image, quickly."""

    def __init__(self, rows: int):
        super().__init__(["image"] * rows, "solver")
        self.generator = torch.Generator().manual_seed(1)

    def _draw(self, source, shape) -> Tensor:
        return source(tuple(shape), generator=self.generator, dtype=torch.float64)


DRAWS, FEW = 20_000, 2_000  # few where each row has transforms of its own, along a trajectory


@pytest.mark.parametrize("case", LINEAR, ids=lambda case: case.name)
def test_draws_are_the_exact_posterior(case: Case) -> None:
    """Mean and every entry of the covariance of 20,000 draws (2,000) against the closed-form Gaussian.

    An entry's error over its standard error, sqrt(C_ii / N) for means and sqrt((C_ii C_jj + C_ij^2) / N) for covariances,
    is normal; the bound is what the largest of all entries exceeds with probability 0.001.
    """
    operator, v, sigma_y = case.drawn().select([0]), 0.5, 0.2
    n, draws = math.prod(case.shape), FEW if isinstance(operator, NonCartesianMRI) else DRAWS
    A = operator.forward(torch.eye(n, dtype=torch.float64).reshape(n, *case.shape)).flatten(1).T
    m = normal(1, *case.shape, seed=1)
    y = operator.forward(normal(1, *case.shape, seed=2))
    y = y + sigma_y * operator.restrict(normal(*y.shape, seed=3))
    K = (
        v
        * torch.linalg.solve(sigma_y**2 * torch.eye(len(A), dtype=torch.float64) + v * A @ A.T, A).T
    )
    mean = m.flatten() + K @ (y.flatten() - A @ m.flatten())
    C = v * (torch.eye(n, dtype=torch.float64) - K @ A)
    p = Problem(y.expand(draws, *y.shape[1:]), operator, Gaussian(sigma_y), ("image",) * draws)
    x = conditioned(
        plain(m.expand(draws, *case.shape), v), p, OneStream(draws), accuracy=1e-2
    ).x.flatten(1)
    of_mean = (x.mean(0) - mean) / (C.diagonal() / draws).sqrt()
    of_covariance = (x.T.cov() - C) / ((C.diagonal() * C.diagonal()[:, None] + C**2) / draws).sqrt()
    bound = NormalDist().inv_cdf(1 - 0.001 / 2 / (n + n * (n + 1) / 2))
    assert float(of_mean.abs().max()) < bound and float(of_covariance.abs().max()) < bound


def kernels() -> torch.Tensor:
    """A kernel that is an outer product, and one that is not."""
    return torch.stack([torch.ones(1, 3, 3) / 9, torch.eye(3)[None] / 3]).double()


def masks() -> torch.Tensor:
    """Whole columns, and scattered points."""
    scattered = torch.ones(8, 8)
    scattered[1, 2] = scattered[5, 6] = 0
    return torch.stack([torch.ones(8, 1).expand(8, 8) * (torch.arange(8) % 2), scattered])[
        :, None
    ].double()


@pytest.mark.parametrize(
    "operator", [KernelBlur(kernels()), MRI(masks(), simulated(3, 8, 8))], ids=["kernels", "masks"]
)
def test_how_an_image_is_solved_does_not_depend_on_its_mates(operator):
    """A closed form for one and iterations for the other: taken together and each alone to 1e-10."""
    ids = ("a", "b")
    truth = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    problem = measure(operator.draw((1, 8, 8), Noise(ids, "mask")), truth, 0.2, Noise(ids, "noise"))
    together = condition(torch.zeros_like(truth), 0.5, problem)
    for i in range(2):
        alone = condition(torch.zeros_like(truth[:1]), 0.5, problem.select([i]))
        torch.testing.assert_close(alone, together[i : i + 1], rtol=0, atol=1e-10)
