"""Whether weights mean in one module what they mean in another: of the same shapes, networks may still differ in what they do."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

ESTIMATED = ("scale", "shift")  # of a latent prior; training may find them out itself
MEANT = (  # attributes of a module that change what its weights do; sizes, noise levels, dropout and what was measured do not
    *("predicts", "sigma_data", "beta_d", "beta_min", "alpha_bar"),
    *("num_groups", "heads", "time_scale", "flip_sin_to_cos", "downscale_freq_shift"),
    *("scale_shift", "damping", "unshuffle", "output_scale_factor", "rescale_output_factor"),
)


def differences(theirs: nn.Module, ours: nn.Module) -> dict[str, str]:
    """What differs -> a phrase that says how, with the first module of which it is true."""
    found: dict[str, str] = {}
    others = dict(ours.named_modules())
    for name, module in theirs.named_modules():
        if name not in others:
            continue
        for what, there, here in meanings(module, others[name]):
            if what not in found and not equal(there, here):
                values = "" if isinstance(there, Tensor) else f" {there} instead of {here}"
                found[what] = f"{name}.{what}".lstrip(".") + (values or " is another table")
    return found


def meanings(module: nn.Module, other: nn.Module) -> Iterator[tuple[str, Any, Any]]:
    """What counts, its value in one module, its value in the other."""
    if hasattr(module, "scalings"):  # a denoiser: VP, EDM and their kin
        yield "kind", type(module).__name__, type(other).__name__
    theirs, ours = (
        {**vars(one), **dict(one.named_buffers(recurse=False))} for one in (module, other)
    )
    for what in MEANT + (ESTIMATED if hasattr(module, "first_stage") else ()):
        if what in theirs and what in ours:
            yield what, theirs[what], ours[what]


def equal(a: Any, b: Any) -> bool:
    """Numbers and tables to the digits that a file may have them with."""
    if isinstance(a, Tensor):
        return a.shape == b.shape and torch.allclose(a.cpu(), b.cpu(), rtol=1e-5, atol=0)
    return (
        abs(a - b) <= 1e-6 * abs(a)
        if isinstance(a, float) and isinstance(b, (int, float))
        else a == b
    )
