"""Line integrals of the attenuation as an operator, whatever the geometry, with exactly matched A and A^T."""

import warnings
from functools import lru_cache

import numpy as np
import torch
from scipy import sparse
from scipy.linalg import eigh
from torch import Tensor

from data.files import Refusal
from solvers.operators.base import Axes, LinearOperator, Scalar, Shape, divide
from solvers.operators.projection import Rays, blocks, entries, joseph, rows_of

EXACT_RAYS = 3000  # up to here A A^T fits in memory as eigenvectors (72 MB), found in seconds
STORED = 200_000_000  # entries of a matrix that is kept, with its transpose 3.2 GB; larger ones are made for every product
# 20 angles of half a turn are 9 degrees apart; an arc that lacks a part, far more
WEDGE = np.radians(15)


class LineIntegrals(LinearOperator):
    """y = A (x/2) mu_max: line integrals [B,C,views,bins], those of a constant u = 1/2 moved out of them.

    Subclasses say which rays (`scan`), and what u = 1 attenuates (mu_max, in 1/length).
    """

    mu_max: float

    unit_range = True
    transmission = True
    neighbours = "rows"  # bins of a view; the views of a sparse scan lie far apart

    @property
    def scan(self) -> Rays:
        raise NotImplementedError

    @property
    def reading(self) -> Axes:  # type: ignore[override]
        return Axes(f"{self.scan.views} views", f"{self.scan.bins} detector cells")

    @property
    def gaps(self) -> bool:  # type: ignore[override]
        """Whether the views leave a wedge of frequencies open, of more than WEDGE between one and the next."""
        angles = np.sort(np.asarray(self.scan.angles) % np.pi)
        return float(np.diff(angles, append=angles[0] + np.pi).max()) > WEDGE

    @property
    def size(self) -> tuple[int, int]:
        if self.shape is None:
            raise Refusal("an adjoint of line integrals needs an image size: call draw first")
        return self.shape[-2], self.shape[-1]

    def shape_out(self, shape: Shape) -> Shape:
        return (*shape[:-2], self.scan.views, self.scan.bins)

    def forward(self, x: Tensor) -> Tensor:
        size, rays = (x.shape[-2], x.shape[-1]), (self.scan.views, self.scan.bins)
        return (
            self.mu_max / 2 * Product.apply(x.flatten(2), self.scan, size, False).unflatten(2, rays)
        )

    def adjoint(self, y: Tensor) -> Tensor:
        return (
            self.mu_max
            / 2
            * Product.apply(y.flatten(2), self.scan, self.size, True).unflatten(2, self.size)
        )

    def hit(self, y: Tensor) -> Tensor:
        """1 for rays that meet the image, else 0, [views,bins]"""
        return (
            torch.from_numpy(met(self.scan, *self.size))
            .to(y)
            .reshape(self.scan.views, self.scan.bins)
        )

    def measured(self, y: Tensor) -> Tensor:
        return (self.hit(y).sum() * y.shape[1]).expand(len(y))

    def restrict(self, y: Tensor) -> Tensor:
        return y * self.hit(y)

    @property
    def exact(self) -> bool:
        return bool(met(self.scan, *self.size).sum() <= EXACT_RAYS)

    def solve(self, r: Tensor, s2: Scalar, v: Scalar) -> Tensor:
        """By eigenvectors of A A^T for few rays, else by conjugate gradients."""
        if not self.exact:
            return super().solve(r, s2, v)
        rays, values, vectors = spectrum(self.scan, *self.size, r.dtype, r.device)
        s2, v = (
            torch.as_tensor(a, dtype=r.dtype, device=r.device).reshape(-1, 1, 1) for a in (s2, v)
        )
        flat = r.flatten(2)
        solved = divide(flat, s2.expand_as(flat))
        solved[..., rays] = (
            divide(flat[..., rays] @ vectors, s2 + v * (self.mu_max / 2) ** 2 * values) @ vectors.T
        )
        return solved.reshape(r.shape)

    def norm(self) -> float:
        return self.mu_max / 2 * largest(self.scan, *self.size)


class Product(torch.autograd.Function):
    """x [B,C,n] -> A x, or A^T x if transposed; the gradient is the product with the other, the tangent with the same.

    The matrix is looked up inside, where torch.func has unwrapped x: it can neither wrap nor build a sparse tensor.
    """

    @staticmethod
    def forward(x: Tensor, scan: Rays, size: tuple[int, int], transposed: bool) -> Tensor:
        columns = x.flatten(0, 1).T.contiguous()
        if entries(scan, *size) > STORED:
            product = piecewise(scan, size, columns, transposed)
        else:
            product = matched(scan, *size, x.dtype, x.device)[transposed] @ columns
        return product.T.contiguous().unflatten(0, x.shape[:2])

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.settings = inputs[1:]

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[override]
        scan, size, transposed = ctx.settings
        return Product.apply(gradient, scan, size, not transposed), None, None, None

    @staticmethod
    def jvp(ctx, tangent: Tensor, *_):  # type: ignore[override]
        return Product.apply(tangent, *ctx.settings)


def piecewise(scan: Rays, size: tuple[int, int], columns: Tensor, transposed: bool) -> Tensor:
    """A or A^T times columns [n,k], some views at a time, whose rows are made and let go: slow, but nothing is too large."""
    flat, first, rows = columns.cpu().numpy(), 0, []
    total = np.zeros((size[0] * size[1], flat.shape[1]), flat.dtype)
    for angles in blocks(scan, *size, STORED // 8):
        A, last = rows_of(scan, angles, *size).astype(flat.dtype), first + len(angles) * scan.bins
        if transposed:
            total += A.T @ flat[first:last]
        else:
            rows.append(A @ flat)
        first = last
    return torch.from_numpy(total if transposed else np.concatenate(rows)).to(columns.device)


@lru_cache(maxsize=4)
def met(scan: Rays, height: int, width: int) -> np.ndarray:
    """Which rays meet the image, [views*bins]"""
    if entries(scan, height, width) <= STORED:
        return np.diff(joseph(scan, height, width).indptr) > 0
    parts = blocks(scan, height, width, STORED // 8)
    return np.concatenate(
        [np.diff(rows_of(scan, angles, height, width).indptr) > 0 for angles in parts]
    )


@lru_cache(maxsize=8)
def matched(
    scan: Rays, height: int, width: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """A and A^T of this dtype on this device. Products by rows are 30 times faster than by columns, and on a CPU torch's
    are 1.6 times faster than SciPy's."""
    A = joseph(scan, height, width)
    return to_torch(A, dtype, device), to_torch(A.T.tocsr(), dtype, device)


def to_torch(A, dtype: torch.dtype, device: torch.device) -> Tensor:
    indptr, indices, data = (torch.from_numpy(array) for array in (A.indptr, A.indices, A.data))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse")  # torch calls its CSR layout beta
        return torch.sparse_csr_tensor(
            indptr, indices, data.to(dtype), A.shape, check_invariants=False
        ).to(device)


@lru_cache(maxsize=4)
def spectrum(
    scan: Rays, height: int, width: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Rays that meet the image, and eigenvalues and eigenvectors of A A^T between them, found in float64."""
    A = joseph(scan, height, width).astype(np.float64)
    rays = np.flatnonzero(np.diff(A.indptr))
    values, vectors = eigh((A[rays] @ A[rays].T).toarray(), overwrite_a=True, driver="evd")
    return (
        torch.from_numpy(rays).to(device),
        torch.from_numpy(values.clip(0)).to(device, dtype),
        torch.from_numpy(vectors).to(device, dtype),
    )


@lru_cache(maxsize=32)
def largest(scan: Rays, height: int, width: int) -> float:
    """The largest singular value of the line integrals, by Lanczos from a flat image."""
    n = height * width
    if n == 1:  # too small for Lanczos
        return float(sparse.linalg.norm(joseph(scan, height, width).astype(np.float64)))
    if entries(scan, height, width) > STORED:
        flat, size = np.ones((n, 1), np.float32), (height, width)
        for _ in range(6):  # a flat image is nearly the largest one already
            wide = piecewise(
                scan, size, piecewise(scan, size, torch.from_numpy(flat), False), True
            ).numpy()
            value, flat = (
                float(np.linalg.norm(wide) / np.linalg.norm(flat)),
                wide / np.linalg.norm(wide),
            )
        return value**0.5
    A = joseph(scan, height, width).astype(np.float64)
    square = sparse.linalg.LinearOperator((n, n), matvec=lambda x: A.T @ (A @ x), dtype=np.float64)
    return float(sparse.linalg.eigsh(square, 1, v0=np.ones(n), return_eigenvectors=False)[0]) ** 0.5
