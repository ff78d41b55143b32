"""Names that DataParallel and torch.compile put around those of a module, taken off again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from data.files import Refusal

PARALLEL, COMPILED = "module.", "_orig_mod."
STATES = ("state_dict", "ema")  # where a checkpoint nests its tensors; else they lie at the top


def unwrapped(content: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], str]:
    """The content of a weight file with plain names, and what was taken off them ("" if nothing).

    `module.` counts only where every name begins with it. Raises Refusal if two names become one.
    """
    found = {key: content[key] for key in STATES if isinstance(content.get(key), Mapping)}
    if not found:
        plain, said = _plain(content, path)
        return plain, said
    states, remarks = dict(content), []
    for key, state in found.items():
        states[key], said = _plain(state, path)
        remarks.append(said)
    return states, next(filter(None, remarks), "")


def _plain(state: Mapping[Any, Any], path: Path) -> tuple[dict[Any, Any], str]:
    names = [
        key for key, value in state.items() if isinstance(key, str) and isinstance(value, Tensor)
    ]
    parallel = bool(names) and all(name.startswith(PARALLEL) for name in names)
    compiled = any(f".{COMPILED}" in f".{name}" for name in names)
    if not parallel and not compiled:
        return dict(state), ""
    bare = {name: name.removeprefix(PARALLEL) if parallel else name for name in names}
    moved = {name: f".{short}".replace(f".{COMPILED}", ".")[1:] for name, short in bare.items()}
    if len(set(moved.values())) < len(names):
        raise Refusal(
            f"{path}: the same weights with and without {COMPILED} before their names; one of each is allowed"
        )
    plain = {moved.get(key, key): value for key, value in state.items()}
    taken = " and ".join(
        [f"`{PARALLEL}` (DataParallel)"] * parallel + [f"`{COMPILED}` (torch.compile)"] * compiled
    )
    return plain, f"its names were read without {taken}"
