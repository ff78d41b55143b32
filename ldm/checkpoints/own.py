"""Our own files: training checkpoints (`last.ckpt`) and exported folders (config.yaml, model.safetensors, README.md).

A training checkpoint holds `config` (the merged configuration as plain values, with `prior:` or `first_stage:`),
`state_dict` of the LightningModule, in which that part's keys start with its name, and `ema`, the averaged ones of them.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from data.files import Refusal, file_digest, replacing_folder
from ldm import config as configuration
from ldm.checkpoints.description import Described, within
from ldm.checkpoints.reading import text_mapping, weights

PARTS = ("prior", "first_stage")


def describe_checkpoint(path: Path, content: Mapping[str, Any], ema: bool) -> Described:
    """A checkpoint of ours; with `ema` (the default everywhere) the averaged weights."""
    settings, state = content["config"], content["state_dict"]
    part = _part(settings, path)
    if ema and not isinstance(content.get("ema"), Mapping):
        raise Refusal(f"{path}: holds no averaged weights (`ema`); load the raw ones with ema=False")
    merged = {**state, **content["ema"]} if ema else state
    return Described(part, settings[part], within(f"{part}.", merged), path)


def describe_folder(folder: Path) -> Described:
    """An exported folder."""
    settings = text_mapping(folder / "config.yaml")
    return Described(
        _part(settings, folder / "config.yaml"), settings[_part(settings, folder)], weights(folder / "model.safetensors"), folder
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
        save_file({key: _stored(tensor, half) for key, tensor in model.state.items()}, part / "model.safetensors")
        (part / "config.yaml").write_text(configuration.dump({model.part: model.node}), "utf-8")
        (part / "README.md").write_text(_card(folder.name, model, half), "utf-8")
        shutil.copymode(part / "config.yaml", part / "model.safetensors")  # safetensors lets only their owner read its files
    return folder


def _part(settings: Any, path: Path) -> Any:
    named = [part for part in PARTS if isinstance(settings, Mapping) and part in settings]
    if len(named) != 1:
        raise Refusal(f"{path}: must describe either a `prior:` or a `first_stage:`")
    return named[0]


def _stored(tensor: Tensor, half: bool) -> Tensor:
    tensor = tensor.detach().to(torch.float16) if half and tensor.is_floating_point() else tensor.detach()
    alone = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if alone else tensor.clone(memory_format=torch.contiguous_format)


def _card(name: str, model: Described, half: bool) -> str:
    sources = sorted(p for p in model.path.rglob("*") if p.is_file()) if model.path.is_dir() else [model.path]
    lines = [
        f"# {name}",
        "",
        f"Exported from `{model.path.name}`; load it with `--model {name}` or `ldm.checkpoints.load`.",
        "",
        f"* parameters: {sum(t.numel() for t in model.state.values()):,}",
        f"* stored as {'float16' if half else 'the source has it'}",
        *(f"* note: {note}" for note in model.notes),
        *(f"* source `{source.name}` SHA-256 `{file_digest(source)}`" for source in sources),
    ]
    return "\n".join(lines) + "\n"
