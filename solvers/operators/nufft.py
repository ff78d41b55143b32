"""The Fourier transform of images at any points of k-space, and its exact transpose, by finufft (Barnett et al. 2019).

    y[j] = (H W)^-1/2 sum_r z[r] exp(-2 pi i (k_y[j] (r_y - H//2) / H + k_x[j] (r_x - W//2) / W))

with k in cycles per field of view; at whole numbers k it is `kspace.fourier` at [H//2 + k_y, W//2 + k_x]. Of 8 coils of 256^2
and 64 spokes of 512 samples one transform takes 0.04 s of a core; a Toeplitz kernel of twice the size each way takes 0.30 s for
the two of A^H A, so there is none. finufft runs on the processor: data of other devices are moved there and back.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.files import Refusal

EXTRA = "non-Cartesian MRI needs finufft: pip install 'palimpsest[mri]'"
ACCURACY = {  # relative error and oversampling of the grid, by the precision of the data
    torch.complex64: (2e-5, 1.25),  # single precision of k alone makes an error of 2e-5 at 256^2
    torch.complex128: (1e-14, 2.0),
}
OWN_THREAD = 2  # each coil is spread by one thread, so that sums have one order whatever the number of threads is
HELD = 4  # plans (direction, number of images, precision) that are kept


def finufft() -> Any:
    """The library. Raises Refusal where it is not installed."""
    try:
        import finufft as library
    except ImportError:
        raise Refusal(EXTRA) from None
    return library


class NonuniformFourier:
    """The transform of images of one shape at one set of points k [2,n], (k_y, k_x) in cycles per field of view."""

    def __init__(self, k: Tensor, shape: tuple[int, int]):
        finufft()
        self.k, self.shape = k.detach().double().cpu(), shape
        self.plans: dict[tuple[int, int, torch.dtype], Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Plans live in the library's memory and do not travel."""
        return {"k": self.k, "shape": self.shape, "plans": {}}

    def forward(self, z: Tensor) -> Tensor:
        """Complex images [...,H,W] -> [...,n]"""
        return _Transform.apply(z, self, 2)

    def adjoint(self, y: Tensor) -> Tensor:
        """Complex samples [...,n] -> [...,H,W]"""
        return _Transform.apply(y, self, 1)

    def transform(self, values: Tensor, kind: int) -> Tensor:
        """kind: 2 from images to samples, 1 back, as finufft counts them."""
        ends = 2 if kind == 2 else 1
        flat = values.detach().reshape(-1, *values.shape[values.ndim - ends :]).cpu().contiguous()
        plan = self.plan(kind, len(flat), values.dtype)
        found = torch.from_numpy(plan.execute(flat.resolve_conj().numpy()))
        shape = (*values.shape[: values.ndim - ends], *found.shape[found.ndim - (3 - ends) :])
        h, w = self.shape
        return found.reshape(shape).to(values.device) / (h * w) ** 0.5

    def plan(self, kind: int, count: int, dtype: torch.dtype) -> Any:
        key = (kind, count, dtype)
        if key not in self.plans:
            if len(self.plans) >= HELD:
                self.plans.pop(next(iter(self.plans)))
            self.plans[key] = self.planned(*key)
        return self.plans[key]

    def planned(self, kind: int, count: int, dtype: torch.dtype) -> Any:
        eps, finer = ACCURACY[dtype]
        made = finufft().Plan(
            kind,
            self.shape,
            count,
            eps,
            -1 if kind == 2 else 1,
            dtype="complex64" if dtype == torch.complex64 else "complex128",
            upsampfac=finer,
            nthreads=torch.get_num_threads(),
            spread_thread=OWN_THREAD,
        )
        real = np.float32 if dtype == torch.complex64 else np.float64
        made.setpts(
            *((2 * np.pi / n * axis.numpy()).astype(real) for axis, n in zip(self.k, self.shape))
        )
        return made


class _Transform(torch.autograd.Function):
    """finufft's transform as a linear map whose derivatives, either way, are itself and its transpose."""

    @staticmethod
    def forward(values: Tensor, points: NonuniformFourier, kind: int) -> Tensor:  # type: ignore[override]
        return points.transform(values, kind)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        _, ctx.points, ctx.kind = inputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return _Transform.apply(gradient, ctx.points, 3 - ctx.kind), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:  # type: ignore[override]
        return _Transform.apply(tangent, ctx.points, ctx.kind)
