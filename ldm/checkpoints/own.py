"""Our own files: training checkpoints (`last.ckpt`) and exported folders (config.yaml, model.safetensors, README.md).

A training checkpoint holds `config` (the merged configuration as plain values, with `prior:` or `first_stage:`),
`state_dict` of the LightningModule, in which that part's keys start with its name, and `ema`, the averaged ones of them;
averages of further half-lives in `ema_others`.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from data.files import Refusal, file_digest, replacing, replacing_folder
from ldm import config as configuration
from ldm.checkpoints.description import Described, contracts, within
from ldm.checkpoints.reading import text_mapping, weights
from ldm.trained import PARTS

EMA_HALF_LIFE = 10_000  # images, where a configuration names none


def describe_checkpoint(path: Path, content: Mapping[str, Any], ema: bool | float) -> Described:
    """A checkpoint of ours; with `ema` (the default everywhere) the averaged weights, of that half-life if it is a number."""
    settings, state = content["config"], content["state_dict"]
    part = _part(settings, path)
    if ema and not isinstance(content.get("ema"), Mapping):
        raise Refusal(
            f"{path}: holds no averaged weights (`ema`); the raw ones: --raw of convert_checkpoint.py, ema=False in Python"
        )
    merged = {**state, **average(path, content, ema)} if ema else state
    doubts = content.get("doubts")
    notes = (f"best weights and error spectra are of {doubts}",) if doubts else ()
    return Described(
        part, settings[part], within(f"{part}.", merged), path, notes, contracts(settings, path)
    )


def half_lives(content: Mapping[str, Any]) -> list[str]:
    """Images after which a weight counts half in the averages of a checkpoint, the one that is used unasked first."""
    named = content["config"].get("ema_half_life", EMA_HALF_LIFE)
    first = named[0] if isinstance(named, list) else named
    return [f"{first:g}", *content.get("ema_others", {})]


def average(path: Path, content: Mapping[str, Any], ema: bool | float) -> Mapping[str, Any]:
    """The averaged weights: those used unasked (True), or those of a half-life."""
    kept = dict(zip(half_lives(content), [content["ema"], *content.get("ema_others", {}).values()]))
    if ema is True:
        return content["ema"]
    if f"{ema:g}" not in kept:
        raise Refusal(
            f"{path}: holds no average of half-life {ema:g}; {' and '.join(kept)} are there"
        )
    return kept[f"{ema:g}"]


def describe_folder(folder: Path) -> Described:
    """An exported folder."""
    settings = text_mapping(folder / "config.yaml")
    part, state = _part(settings, folder / "config.yaml"), weights(folder / "model.safetensors")
    return Described(
        part, settings[part], state, folder, contracts=contracts(settings, folder / "config.yaml")
    )


def export(model: Described, folder: str | Path, half: bool = False) -> Path:
    """Write config.yaml, model.safetensors and README.md into a new folder, all or nothing.

    half: store floating-point weights as float16 (they are float32 again when loaded).
    """
    folder = Path(folder)
    if folder.exists():
        raise Refusal(f"{folder}: exists; an export needs a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing_folder(folder) as part:
        save_file(
            {key: _stored(tensor, half) for key, tensor in model.state.items()},
            part / "model.safetensors",
        )
        said = (
            {"contracts": {name: list(ends) for name, ends in model.contracts.items()}}
            if model.contracts
            else {}
        )
        (part / "config.yaml").write_text(
            configuration.dump({**said, model.part: model.node}), "utf-8"
        )
        (part / "README.md").write_text(_card(folder.name, model, half), "utf-8")
        shutil.copymode(
            part / "config.yaml", part / "model.safetensors"
        )  # safetensors lets only their owner read its files
    return folder


def keep_training(content: Mapping[str, Any], path: str | Path) -> Path:
    """Write a training checkpoint in a third of its bytes, to be kept beside the model; `main.py --resume FILE` goes on from it.

    Weights and the average used unasked are stored as float16, the optimiser's moments as bfloat16, because they span more
    than float16 does. Averages of further half-lives begin anew at that one. Not to the bit, therefore; a rounding of weights
    by 2^-11 is a hundredth of a step at common learning rates.
    """
    path = Path(path)
    if path.exists():
        raise Refusal(f"{path}: exists; choose another name")
    narrow = {key: _narrowed(content[key], torch.float16) for key in ("state_dict", "ema")}
    moments = _narrowed(content["optimizer_states"], torch.bfloat16)
    left: dict[str, dict] = {
        "callbacks": {},
        "ema_others": {},
    }  # callbacks know paths of the machine where the run was
    with replacing(path) as file:
        torch.save({**content, **narrow, "optimizer_states": moments, **left}, file)
    return path


def _narrowed(value: Any, dtype: torch.dtype) -> Any:
    """The same nested containers with their floating-point tensors as `dtype`."""
    if isinstance(value, Mapping):
        return {key: _narrowed(one, dtype) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_narrowed(one, dtype) for one in value]
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def _part(settings: Any, path: Path) -> Any:
    named = [part for part in PARTS if isinstance(settings, Mapping) and part in settings]
    if len(named) != 1:
        raise Refusal(f"{path}: must describe either a `prior:` or a `first_stage:`")
    return named[0]


def _stored(tensor: Tensor, half: bool) -> Tensor:
    tensor = (
        tensor.detach().to(torch.float16)
        if half and tensor.is_floating_point()
        else tensor.detach()
    )
    alone = (
        tensor.is_contiguous()
        and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    )
    return tensor if alone else tensor.clone(memory_format=torch.contiguous_format)


def _card(name: str, model: Described, half: bool) -> str:
    sources = (
        sorted(p for p in model.path.rglob("*") if p.is_file())
        if model.path.is_dir()
        else [model.path]
    )
    lines = [
        f"# {name}",
        "",
        f"Exported from `{model.path.name}`; load it with `--model {name}` or `ldm.checkpoints.load`.",
        "",
        f"* parameters: {sum(t.numel() for t in model.state.values()):,}",
        f"* stored as {'float16' if half else 'the source has it'}",
        *(
            f"* {name}: {low:g} is black and {high:g} white"
            for name, (low, high) in model.contracts.items()
        ),
        *(f"* note: {note}" for note in model.notes),
        *(f"* source `{source.name}` SHA-256 `{file_digest(source)}`" for source in sources),
    ]
    return "\n".join(lines) + "\n"
