"""Computed tomography: line integrals of the attenuation u * mu_max, u = (x+1)/2, with exactly matched A and A^T."""

import math
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from scipy import sparse
from scipy.linalg import eigh
from torch import Tensor

from data.files import Refusal
from data.ranges import from_unit
from solvers.operators.base import Axes, LinearOperator, Scalar, Shape, divide
from solvers.operators.projection import Scan, filtered_backprojection, joseph

EXACT_RAYS = 3000  # up to here A A^T fits in memory as eigenvectors (72 MB), found in seconds


@dataclass(frozen=True, eq=False)
class CT(LinearOperator):
    """y = A (x/2) mu_max: line integrals [B,C,views,bins], those of a constant u = 1/2 moved out of them.

    The defaults are PaDIS's geometry (Hu et al. 2024): a box [-20,20]^2 seen by 512 cells on [-40,40], angles at
    (i + 1/2) arc / views; its fan beam has source and detector 40 from the axis. Rays that miss the image are not
    measured. Noise: `Gaussian` with the standard deviation of the stored line integrals, or `Poisson`, whose rate is
    then the photons sent along each ray.
    """

    views: int = 20
    beam: Literal["parallel", "fan"] = "parallel"
    arc: float = 180.0  # degrees covered by the views
    bins: int = 512
    detector: float = 80.0  # width of the detector, in the length unit of `box`
    box: float = 40.0  # side of the image
    radius: float = 40.0  # fan beam: distance of source and detector from the axis
    mu_max: float = 1.0  # attenuation at u = 1, in 1/length
    window: Literal["hann", "ramp"] = "hann"  # of the filtered backprojection, the baseline
    cutoff: float = 0.9  # its highest frequency, as a fraction of Nyquist's; PaDIS: 0.9 parallel, 0.3 fan

    unit_range = True
    transmission = True
    neighbours = "rows"  # bins of a view; the views of a sparse scan lie far apart

    def __post_init__(self) -> None:
        if self.views < 1 or self.bins < 2:
            raise Refusal(f"CT needs at least 1 view and 2 bins, got views={self.views}, bins={self.bins}")
        if self.beam not in ("parallel", "fan") or self.window not in ("hann", "ramp"):
            raise Refusal(f"CT beams are parallel or fan and windows hann or ramp, not {self.beam!r}, {self.window!r}")
        if not 0 < self.arc <= 360:
            raise Refusal(f"the views of a CT cover 0 < arc <= 360 degrees, not {self.arc}")
        if not (all(0 < length < math.inf for length in (self.detector, self.box, self.mu_max)) and 0 < self.cutoff <= 1):
            raise Refusal("CT needs finite detector, box, mu_max > 0 and 0 < cutoff <= 1")
        if self.beam == "fan" and not self.box / 2**0.5 < self.radius < math.inf:
            raise Refusal(f"the source at radius {self.radius} lies inside the image of side {self.box}, or nowhere")

    @property
    def scan(self) -> Scan:
        radius = self.radius if self.beam == "fan" else None
        return Scan(self.views, math.radians(self.arc), self.bins, self.detector, self.box, radius)

    @property
    def reading(self) -> Axes:  # type: ignore[override]
        return Axes(f"{self.views} views over {self.arc:g} degrees", f"{self.bins} detector cells")

    @property
    def size(self) -> tuple[int, int]:
        if self.shape is None:
            raise Refusal("a CT's adjoint needs an image size: call draw first")
        return self.shape[-2], self.shape[-1]

    def shape_out(self, shape: Shape) -> Shape:
        return (*shape[:-2], self.views, self.bins)

    def forward(self, x: Tensor) -> Tensor:
        size = (x.shape[-2], x.shape[-1])
        return self.mu_max / 2 * Product.apply(x.flatten(2), self.scan, size, False).unflatten(2, (self.views, self.bins))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.mu_max / 2 * Product.apply(y.flatten(2), self.scan, self.size, True).unflatten(2, self.size)

    def hit(self, y: Tensor) -> Tensor:
        """1 for rays that meet the image, else 0, [views,bins]"""
        lengths = np.diff(joseph(self.scan, *self.size).indptr)
        return torch.from_numpy(lengths > 0).to(y).reshape(self.views, self.bins)

    def measured(self, y: Tensor) -> Tensor:
        return (self.hit(y).sum() * y.shape[1]).expand(len(y))

    def restrict(self, y: Tensor) -> Tensor:
        return y * self.hit(y)

    @property
    def exact(self) -> bool:
        return bool((np.diff(joseph(self.scan, *self.size).indptr) > 0).sum() <= EXACT_RAYS)

    def solve(self, r: Tensor, s2: Scalar, v: Scalar) -> Tensor:
        """By eigenvectors of A A^T for few rays, else by conjugate gradients."""
        if not self.exact:
            return super().solve(r, s2, v)
        rays, values, vectors = spectrum(self.scan, *self.size, r.dtype, r.device)
        s2, v = (torch.as_tensor(a, dtype=r.dtype, device=r.device).reshape(-1, 1, 1) for a in (s2, v))
        flat = r.flatten(2)
        solved = divide(flat, s2.expand_as(flat))
        solved[..., rays] = divide(flat[..., rays] @ vectors, s2 + v * (self.mu_max / 2) ** 2 * values) @ vectors.T
        return solved.reshape(r.shape)

    def norm(self) -> float:
        return self.mu_max / 2 * largest(self.scan, *self.size)

    def baseline(self, y: Tensor, shape: Shape) -> Tensor:
        """Filtered backprojection, clipped to the range of images."""
        integrals = y + self.forward(torch.ones(1, *shape, dtype=y.dtype, device=y.device))
        h, w = shape[-2:]
        u = filtered_backprojection(self.scan, integrals, h, w, self.window, self.cutoff) / self.mu_max
        return from_unit(u.clamp(0, 1))


class Product(torch.autograd.Function):
    """x [B,C,n] -> A x, or A^T x if transposed; the gradient is the product with the other, the tangent with the same.

    The matrix is looked up inside, where torch.func has unwrapped x: it can neither wrap nor build a sparse tensor.
    """

    @staticmethod
    def forward(x: Tensor, scan: Scan, size: tuple[int, int], transposed: bool) -> Tensor:
        M = matched(scan, *size, x.dtype, x.device)[transposed]
        return (M @ x.flatten(0, 1).T.contiguous()).T.contiguous().unflatten(0, x.shape[:2])

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


@lru_cache(maxsize=8)
def matched(scan: Scan, height: int, width: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """A and A^T of this dtype on this device. Products by rows are 30 times faster than by columns, and on a CPU torch's
    are 1.6 times faster than SciPy's."""
    A = joseph(scan, height, width)
    return to_torch(A, dtype, device), to_torch(A.T.tocsr(), dtype, device)


def to_torch(A, dtype: torch.dtype, device: torch.device) -> Tensor:
    indptr, indices, data = (torch.from_numpy(array) for array in (A.indptr, A.indices, A.data))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse")  # torch calls its CSR layout beta
        return torch.sparse_csr_tensor(indptr, indices, data.to(dtype), A.shape, check_invariants=False).to(device)


@lru_cache(maxsize=4)
def spectrum(scan: Scan, height: int, width: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
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
def largest(scan: Scan, height: int, width: int) -> float:
    """The largest singular value of the line integrals, by Lanczos from a flat image."""
    A = joseph(scan, height, width).astype(np.float64)
    n = height * width
    if n == 1:  # too small for Lanczos
        return float(sparse.linalg.norm(A))
    square = sparse.linalg.LinearOperator((n, n), matvec=lambda x: A.T @ (A @ x), dtype=np.float64)
    return float(sparse.linalg.eigsh(square, 1, v0=np.ones(n), return_eigenvectors=False)[0]) ** 0.5
