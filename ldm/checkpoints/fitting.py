"""Putting tensors into the module they belong to: built without memory, filled strictly, every disagreement listed."""

import hashlib
import reprlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from data import files
from data.files import Refusal
from ldm import config, plugins
from ldm.checkpoints.reading import first_names, parse_safely, refuse_unsound

ROOMS = ("ldm.", "diffusers.")  # where the classes of a model description may live
LARGEST = 10_000  # values in a model description; published ones have about a hundred
# Registrations that a build may make: a network of ours registers each tensor once, but a ResidualVQ of n levels, of at least
# 9 + 12n tensors, replaces 68 + 28n of diffusers' beside them; a foreign one may register several names, and biases as None.
EACH, SLACK = 4, 64  # for each tensor of the file, and beyond them


def skeleton(node: Mapping[str, Any], tensors: int, path: str | Path) -> nn.Module:
    """Build a {target, params} node on the meta device, without memory for weights.

    tensors: how many the file holds; a description of more is stopped while it is being built, so that a few hostile
    bytes cannot ask for a billion layers. Raises Refusal naming the file.
    """
    rooms = (*ROOMS, *(f"{module}." for module in plugins.NAMES))
    for target in parse_safely(Path(path), lambda _: _targets(node)):
        if not str(target).startswith(rooms):
            raise Refusal(
                f"{path}: target {reprlib.repr(target)} has no place in a model description; allowed: classes of ldm, diffusers"
            )
    left = [EACH * tensors + SLACK]

    def count(*_: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Refusal(f"describes more layers than the file has tensors ({tensors})")

    handle = register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"):
            built = config.build(node)
    except (
        ValueError,
        RuntimeError,
        TypeError,
        OverflowError,
        AttributeError,
        IndexError,
        KeyError,
        ZeroDivisionError,
    ) as error:
        raise Refusal(f"{path}: {str(error).splitlines()[0]}") from None
    finally:
        handle.remove()
    if not isinstance(built, nn.Module):
        raise Refusal(f"{path}: describes a {type(built).__name__}, not a model")
    return built


def fill(module: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Give every parameter and buffer of `module` its tensor, as float32, without copying those that are so and aligned already.

    Raises Refusal listing every missing, unexpected, mis-shaped and unsound tensor.
    """
    wanted = module.state_dict()
    refuse_unsound({key: tensor for key, tensor in state.items() if key in wanted}, path)
    misfits = {
        "missing": [key for key in wanted if key not in state],
        "unexpected": [key for key in state if key not in wanted],
        "of another shape": [
            f"{key} {list(state[key].shape)} instead of {list(wanted[key].shape)}"
            for key in wanted
            if key in state and state[key].shape != wanted[key].shape
        ],
    }
    if any(misfits.values()):
        faults = "; ".join(
            f"{len(names)} {kind}: {first_names(names)}" for kind, names in misfits.items() if names
        )
        raise Refusal(f"{path}: does not fit the model: {faults}")
    float32 = {
        key: _aligned(tensor.detach().float()) if tensor.is_floating_point() else tensor
        for key, tensor in state.items()
    }
    module.load_state_dict(float32, strict=True, assign=True)
    stranded = [
        name
        for name, tensor in (*module.named_parameters(), *module.named_buffers())
        if tensor.is_meta
    ]
    if stranded:
        raise Refusal(f"{path}: the model has tensors that no file holds: {first_names(stranded)}")
    module.requires_grad_(False).eval()


def _aligned(tensor: Tensor) -> Tensor:
    """On a boundary of 64 bytes, where torch puts its own and safetensors does not: the last digits of a kernel depend on it."""
    return tensor.clone() if tensor.data_ptr() % 64 else tensor


def digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and float32 contents of a state, so that a prior has one digest in every container."""
    with ThreadPoolExecutor(2) as pool:
        lines = pool.map(_line, state, state.values())
        return files.digest("\n".join(lines))


def adapt_channels(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """Weights of a 3-channel model for a 1-channel one, and the names of the layers changed.

    Only a convolution whose shape differs in exactly the image channels, 3 -> 1 (6 -> 2 with learned variance), is adapted: the
    first layer's weights are summed over the input channels (a gray image replicated gives the same response), the last
    layer's are averaged over the output channels.
    """
    adapted, changed = dict(state), []
    for key, tensor in state.items():
        if key not in wanted or tensor.shape == wanted[key].shape:
            continue
        old, new = tensor.shape, wanted[key].shape
        if len(old) == 4 and old[1] == 3 and new == (old[0], 1, *old[2:]):
            adapted[key] = tensor.sum(1, keepdim=True)
        elif (
            old[0] == 3 * new[0]
            and new[0] in (1, 2)
            and new[1:] == old[1:]
            and (len(old) in (1, 4))
        ):
            adapted[key] = tensor.unflatten(0, (new[0], 3)).mean(1)
        else:
            continue
        changed.append(key)
    return adapted, changed


def _line(name: str, tensor: Tensor) -> str:
    content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return f"{name} {tensor.dtype} {list(tensor.shape)} {hashlib.sha256(content.numpy().data).hexdigest()}"


def _targets(description: Any) -> list[Any]:
    """Every `target` in a description, however deep; one of more than LARGEST values is refused, for it could be endless."""
    found, left, seen = [], [description], 0
    while left:
        value = left.pop()
        seen += 1
        if seen > LARGEST:
            raise Refusal(f"a model description of more than {LARGEST} values")
        if isinstance(value, Mapping):
            found += [value["target"]] if "target" in value else []
            left += value.values()
        elif isinstance(value, (list, tuple)):
            left += value
    return found
