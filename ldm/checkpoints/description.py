"""What every family of weight files is turned into: a model description as YAML would hold it, and its state dict."""

import math
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
    contracts: stored values that were -1 and +1 in training, by modality: a prior restores scans of it in the same range.
    """

    part: Literal["prior", "first_stage"]
    node: Mapping[str, Any]
    state: Mapping[str, Tensor]
    path: Path
    notes: tuple[str, ...] = field(default=())
    contracts: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def build(self) -> nn.Module:
        """The module with its weights, frozen, in eval mode; a Prior knows the digest of its weights as `origin`."""
        module = skeleton(self.node, len(self.state), self.path)
        fill(module, self.state, self.path)
        if self.part == "prior":
            if not isinstance(module, Prior):
                raise Refusal(
                    f"{self.path}: its `prior:` describes a {type(module).__name__}, which is not a prior"
                )
            module.contracts = dict(self.contracts)
            module.origin = partial(digest, module.state_dict())
        return module


def contracts(settings: Any, path: Path) -> dict[str, tuple[float, float]]:
    """What a model's settings say under `contracts:`, {CT: [-1000, 400]}. Raises Refusal for anything else."""
    said = settings.get("contracts") or {}
    if not isinstance(said, Mapping):
        raise Refusal(
            f"{path}: contracts: {said!r:.80}; modalities with [low, high] each are allowed"
        )
    found = {}
    for modality, ends in said.items():
        numbers = (
            isinstance(ends, (list, tuple))
            and len(ends) == 2
            and all(type(end) in (int, float) for end in ends)
        )
        if not numbers or not -math.inf < ends[0] < ends[1] < math.inf:
            raise Refusal(
                f"{path}: contracts.{modality}: {ends!r:.80}; [low, high] in stored units is allowed"
            )
        found[str(modality)] = (float(ends[0]), float(ends[1]))
    return found


def node(target: str, **params: Any) -> dict[str, Any]:
    """{target, params} without the parameters that are None."""
    return {
        "target": target,
        "params": {key: value for key, value in params.items() if value is not None},
    }


def under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every key with the prefix put before it."""
    return {f"{prefix}{key}": tensor for key, tensor in state.items()}


def within(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The keys that start with the prefix, without it."""
    return {
        key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)
    }
