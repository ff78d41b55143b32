"""What restoring costs: a prior's calls and backward passes are counted, and its network alone runs in low precision."""

import resource
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ldm.denoiser import Prior


class _Tick(torch.autograd.Function):
    """Identity whose backward pass is counted; works under torch.func."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, meter: "Meter") -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.meter = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        ctx.meter.vjps += 1
        return gradient, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:  # type: ignore[override]
        return tangent.view_as(tangent)


class Meter:
    """`with Meter(prior) as meter:` counts nfe, calls of `denoise`, and vjps, backward passes through the denoiser or
    the decoder; every call counts once for all images of the batch.

    dtype: autocast type of the diffusion network ("mixed" precision), or None. The sampler's state, operators and solves
    around it stay in the state's own precision, and so does the autoencoder: it is a part of the operator where a solver
    linearises A(decode), and what it puts out is the image, of which bfloat16 would keep eight bits.

    ask: called before each call of `denoise`, which it may prevent by what it raises.
    """

    def __init__(
        self, prior: Prior, dtype: torch.dtype | None = None, ask: Callable[[], None] | None = None
    ):
        self.prior, self.dtype, self.ask = prior, dtype, ask
        self.nfe = self.vjps = 0
        self._inside = False

    def __enter__(self) -> "Meter":
        self._observe("denoise")
        if (
            self.prior.kind == "latent"
        ):  # pixel priors become images by cropping and averaging, which is not worth counting
            for name in ("decode", "to_image", "encode", "to_state"):
                self._observe(name)
        return self

    def __exit__(self, *_: object) -> None:
        for name in ("denoise", "decode", "to_image", "encode", "to_state"):
            self.prior.__dict__.pop(name, None)

    def _observe(self, name: str) -> None:
        method: Callable[..., Tensor] = getattr(self.prior, name)
        dtype = self.dtype if name == "denoise" else None

        def observed(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if self._inside:  # to_image calls decode: one call, not two
                return method(x, *args, **kwargs)
            if self.ask and name == "denoise":
                self.ask()
            self._inside = True
            try:
                with torch.autocast(x.device.type, dtype, enabled=dtype is not None):
                    y = method(x, *args, **kwargs).to(x.dtype)
            finally:
                self._inside = False
            self.nfe += name == "denoise"
            return _Tick.apply(y, self)  # type: ignore[no-any-return]

        self.prior.__dict__[name] = observed


def peak_memory() -> int:
    """Bytes that were in use at once: of the accelerator if there is one in use, else of this process."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
