"""One battery over one list of operators (float64), then what each family is by an independent formula, then bad input."""

import pytest
import torch
from torch import Tensor

from solvers.operators.base import LinearOperator
from tests.operator_list import IDS, LINEAR, NONLINEAR, Case

linear = pytest.mark.parametrize("case", LINEAR, ids=lambda case: case.name)
every = pytest.mark.parametrize("case", LINEAR + NONLINEAR, ids=lambda case: case.name)


def field(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def one(case: Case) -> LinearOperator:
    """The operator of the first image alone, which takes any batch."""
    operator = case.drawn().select([0])
    assert isinstance(operator, LinearOperator)
    return operator


def dense(operator: LinearOperator, shape: tuple[int, ...]) -> Tensor:
    """A as a matrix [m, n], column by column."""
    n = int(torch.tensor(shape).prod())
    return operator.forward(torch.eye(n, dtype=torch.float64).reshape(n, *shape)).flatten(1).T


@linear
def test_adjoint(case):
    operator = case.drawn()
    x, y = field((3, *case.shape)), field((3, *operator.shape_out(case.shape)), 1)
    ax, aty = operator.forward(x), operator.adjoint(y)
    assert ax.shape == y.shape and aty.shape == x.shape
    gap = ((ax * y).flatten(1).sum(1) - (x * aty).flatten(1).sum(1)).abs()
    assert float((gap / (ax.flatten(1).norm(dim=1) * y.flatten(1).norm(dim=1))).max()) <= 1e-10


@linear
def test_is_a_matrix_and_its_transpose(case):
    """Forward is linear, so equal to its dense matrix on any x; the adjoint is that matrix transposed, entry by entry."""
    operator = one(case)
    A = dense(operator, case.shape)
    x = field((2, *case.shape))
    torch.testing.assert_close(
        operator.forward(x).flatten(1), x.flatten(1) @ A.T, rtol=0, atol=1e-12
    )
    m = A.shape[0]
    basis = torch.eye(m, dtype=torch.float64).reshape(m, *operator.shape_out(case.shape))
    torch.testing.assert_close(operator.adjoint(basis).flatten(1), A, rtol=0, atol=1e-12)
    torch.testing.assert_close(operator.gram(basis).flatten(1), A @ A.T, rtol=0, atol=1e-12)


@linear
@pytest.mark.parametrize("s2, v", [(0.01, 1.0), (1e-4, 0.3), (2.0, 50.0)])
def test_solve_is_the_dense_solve(case, s2, v):
    operator = one(case)
    A = dense(operator, case.shape)
    r = field((2, *operator.shape_out(case.shape)), 2)
    expected = torch.linalg.solve(
        s2 * torch.eye(len(A), dtype=torch.float64) + v * A @ A.T, r.flatten(1).T
    ).T
    scale = float(expected.abs().max())
    torch.testing.assert_close(
        operator.solve(r, s2, v).flatten(1), expected, rtol=0, atol=1e-9 * scale
    )
    corrected = operator.correct(r, s2, v).flatten(1)
    torch.testing.assert_close(corrected, expected @ A, rtol=0, atol=1e-9 * scale)


@linear
def test_solve_takes_one_number_per_image(case):
    operator = case.drawn()
    s2, v = torch.tensor([0.1, 0.02, 1.0]).double(), torch.tensor([1.0, 5.0, 0.2]).double()
    r = field((3, *operator.shape_out(case.shape)), 3)
    together = operator.solve(r, s2, v)
    for i in range(3):
        alone = operator.select([i]).solve(r[i : i + 1], float(s2[i]), float(v[i]))
        torch.testing.assert_close(
            together[i : i + 1], alone, rtol=0, atol=1e-10 * float(alone.abs().max())
        )


@every
def test_vjp_is_the_adjoint(case):
    operator = case.drawn()
    x, y = field((3, *case.shape), 4), field((3, *operator.shape_out(case.shape)), 5)
    (pulled,) = torch.autograd.grad(operator.forward(x.requires_grad_()), x, y)
    torch.testing.assert_close(operator.linearize(x).adjoint(y), pulled, rtol=0, atol=1e-12)


@every
def test_rows_of_a_batch_are_single_images(case):
    operator = case.drawn()
    x = field((3, *case.shape), 6)
    y = operator.forward(x)
    for i, name in enumerate(IDS):
        torch.testing.assert_close(
            operator.select([i]).forward(x[i : i + 1]), y[i : i + 1], rtol=0, atol=1e-13
        )
        if all(
            len(tensor) == 1 for tensor in case.make().files().values()
        ):  # else the user gave one for each of three
            torch.testing.assert_close(
                case.drawn((name,)).forward(x[i : i + 1]), y[i : i + 1], rtol=0, atol=1e-13
            )
    twice = operator.select([2, 2, 0])
    torch.testing.assert_close(twice.forward(x[[2, 2, 0]]), y[[2, 2, 0]], rtol=0, atol=1e-13)


@every
def test_precision_and_counts(case):
    """float32 in, float32 out, and near the float64 result: 1e-5 is a hundred roundings of entries near one."""
    operator = case.drawn()
    x = field((3, *case.shape), 7)
    y = operator.forward(x)
    assert y.dtype == torch.float64 and operator.forward(x.float()).dtype == torch.float32
    torch.testing.assert_close(
        operator.forward(x.float()).double(), y, rtol=1e-5, atol=1e-5 * float(y.abs().max())
    )
    count = operator.measured(y)
    assert count.shape == (3,)
    torch.testing.assert_close(operator.restrict(torch.ones_like(y)).flatten(1).sum(1), count)
    if isinstance(operator, LinearOperator):
        assert (
            operator.adjoint(y.float()).dtype
            == operator.solve(y.float(), 0.1, 1.0).dtype
            == torch.float32
        )


@linear
def test_norm(case):
    """Closed forms to rounding; power iteration's 50 rounds to 2 %, from below."""
    operator = case.drawn()
    truth = max(
        float(torch.linalg.matrix_norm(dense(operator.select([i]), case.shape), 2))
        for i in range(3)
    )
    assert truth * (1 - (1e-9 if operator.exact else 0.02)) <= operator.norm() <= truth * (1 + 1e-5)


@every
def test_baseline_is_an_image(case):
    operator = case.drawn()
    answer = operator.baseline(operator.forward(field((3, *case.shape))), case.shape)
    assert answer is None or answer.shape == (3, *case.shape)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
@every
def test_the_device_follows_the_input(case):
    """The same numbers on the accelerator; float64, so that only the order of sums differs."""
    operator, x = case.drawn(), field((3, *case.shape), 8)
    y = operator.forward(x)
    torch.testing.assert_close(operator.forward(x.cuda()).cpu(), y, rtol=0, atol=1e-11)
    if isinstance(operator, LinearOperator):
        torch.testing.assert_close(
            operator.adjoint(y.cuda()).cpu(), operator.adjoint(y), rtol=0, atol=1e-11
        )
        torch.testing.assert_close(
            operator.solve(y.cuda(), 0.1, 1.0).cpu(), operator.solve(y, 0.1, 1.0), rtol=0, atol=1e-8
        )
