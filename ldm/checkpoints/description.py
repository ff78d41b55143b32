"""What every family of weight files is turned into: a model description as YAML would hold it, and its state dict."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from data.files import Refusal
from ldm.checkpoints.fitting import digest, fill, skeleton
from ldm.denoiser import Prior


@dataclass(frozen=True)
class Described:
    """part: what the node builds, a whole `prior` or a `first_stage` alone. node: {target, params} of our classes.

    state: that module's state dict. path: where it came from. notes: what the user should know (printed and exported).
    """

    part: Literal["prior", "first_stage"]
    node: Mapping[str, Any]
    state: Mapping[str, Tensor]
    path: Path
    notes: tuple[str, ...] = field(default=())

    def build(self) -> nn.Module:
        """The module with its weights, frozen, in eval mode; a Prior knows the digest of its weights as `origin`."""
        module = skeleton(self.node, len(self.state), self.path)
        fill(module, self.state, self.path)
        if self.part == "prior":
            if not isinstance(module, Prior):
                raise Refusal(f"{self.path}: its `prior:` describes a {type(module).__name__}, which is not a prior")
            module.origin = partial(digest, module.state_dict())
        return module


def node(target: str, **params: Any) -> dict[str, Any]:
    """{target, params} without the parameters that are None."""
    return {"target": target, "params": {key: value for key, value in params.items() if value is not None}}


def under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every key with the prefix put before it."""
    return {f"{prefix}{key}": tensor for key, tensor in state.items()}


def within(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The keys that start with the prefix, without it."""
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
