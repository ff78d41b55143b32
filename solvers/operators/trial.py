"""Whether operators of a user's own are what they say: tried on random images, once before a run."""

from collections.abc import Iterator

import torch
from torch import Tensor

from data.files import Refusal
from data.seeding import Noise
from solvers.operators.base import LinearOperator, Operator, Shape

# Of a norm. Rounding grows as eps sqrt(n), in float32 to 4e-4 at 10^7 entries; a wrong sign, scale or place is far above.
TOLERANCE = 1e-3


def check(operator: Operator, shape: Shape, like: Tensor, decoded: bool) -> None:
    """Raise Refusal for the first equation that an operator of a user's own does not satisfy, and say by how much.

    shape: of the images. like: a tensor of the device and type that are worked in. decoded: images are a decoder's.
    """
    for own in strangers(operator):
        x = like.new_zeros(1, *(own.shape or shape))
        _check(own.select([0]), x, decoded or not isinstance(own, LinearOperator))


def strangers(operator: Operator) -> Iterator[Operator]:
    """The operator itself, or those that it is made of, whose classes are not of this program."""
    if type(operator).__module__.partition(".")[0] != "solvers":
        yield operator
        return
    for value in vars(operator).values():
        for part in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(part, Operator):
                yield from strangers(part)


def _check(A: Operator, zeros: Tensor, descended: bool) -> None:
    """descended: solvers take the gradient of `forward`."""
    noise, name = Noise(("trial",), "noise"), type(A).__name__
    x, z = noise.like(zeros), noise.like(zeros)
    with torch.set_grad_enabled(descended):
        y = A.forward(x.requires_grad_(descended))
    if descended and not y.requires_grad:
        known = "functions of torch are allowed, detach() and NumPy are not"
        raise Refusal(f"{name}.forward has no derivative: {known}")
    x, y = x.detach(), y.detach()
    due = (1, *A.shape_out(tuple(x.shape[1:])))

    def shaped(what: str, made: Tensor, shape: Shape) -> Tensor:
        if tuple(made.shape) != tuple(shape):
            raise Refusal(f"{name}.{what} gives {list(made.shape)}; {list(shape)} is due")
        return made

    def equal(what: str, one: Tensor, other: Tensor) -> None:
        gap, size = float((one - other).norm()), float(other.norm())
        if not gap <= TOLERANCE * size:
            told = f"is off by {gap / size if size else gap:.2g} of its size"
            raise Refusal(f"{name}: {what} {told}; up to {TOLERANCE:g} is allowed")

    shaped("forward", y, due)
    if not isinstance(A, LinearOperator):
        return
    equal("it is not linear: A(x + 2 z) = A x + 2 A z", A.forward(x + 2 * z), y + 2 * A.forward(z))
    n = A.restrict(noise.like(y))
    w = y + n * (y.norm() / 2 / n.norm())  # never across A x, so that <A x, w> is no small number
    back = shaped("adjoint", A.adjoint(w), tuple(x.shape))
    equal("its adjoint is wrong: <x, Aᵀ w> = <A x, w>", (x * back).sum(), (y * w).sum())
    gram = A.forward(back)
    equal("its gram is wrong: gram(w) = A Aᵀ w", shaped("gram", A.gram(w), due), gram)
    if A.exact:
        s2, v = 0.3 * float(gram.norm() / w.norm()), 0.7
        r = shaped("solve", A.solve(w, s2, v), due)
        equal(
            "its solve is wrong: (s2 I + v A Aᵀ) solve(r) = r",
            s2 * r + v * A.forward(A.adjoint(r)),
            w,
        )
