"""Weights people already have: `load` tells the family of a file or folder, checks every key and shape, returns a Prior.

Each family has a file here that turns its layout into a description of ours and our key names (`Described`); nothing in a
weight file is ever executed. `docs/weights.md` lists the published files.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from data.files import Refusal
from ldm import trained
from ldm.checkpoints import (
    compvis,
    description,
    diffusers_folder,
    edm,
    guided_diffusion,
    monai,
    own,
    stable_diffusion,
)
from ldm.checkpoints.compatibility import ESTIMATED, differences
from ldm.checkpoints.description import Described, within
from ldm.checkpoints.fitting import adapt_channels, fill
from ldm.checkpoints.own import export
from ldm.checkpoints.reading import text_mapping, weights
from ldm.checkpoints.wrappers import unwrapped
from ldm.denoiser import Prior
from ldm.networks.residual_unet import ResidualUNet

__all__ = [
    "agree",
    "describe",
    "describe_first_stage",
    "export",
    "first_stage",
    "initialise",
    "load",
]

Settings = str | Path | Mapping[str, Any] | None


def load(path: str | Path, config: Settings = None, *, ema: bool | float = True) -> Prior:
    """The prior in a weight file or model folder, frozen, float32, on the CPU.

    config: what a foreign file does not say (a YAML file or a mapping); each family's file names its keys.
    ema: averaged weights where the file has both; of ours, a number chooses the average of that half-life in images.
    Raises Refusal, one line, listing all that does not fit.
    """
    described = describe(path, config, ema=ema)
    if described.part != "prior":
        raise Refusal(
            f"{path}: is an autoencoder, not a prior; name it as the first stage of a latent prior"
        )
    return described.build()  # type: ignore[return-value]


def first_stage(
    path: str | Path, config: Settings = None, *, ema: bool | float = True
) -> nn.Module:
    """The autoencoder (ldm.latent.VQ or KL) in a file of its own, or that of a latent prior."""
    return describe_first_stage(path, config, ema=ema).build()


def describe_first_stage(
    path: str | Path, config: Settings = None, *, ema: bool | float = True
) -> Described:
    """Its description and state dict, before anything is built."""
    described = describe(path, config, ema=ema)
    if described.part == "first_stage":
        return described
    node = (described.node.get("params") or {}).get("first_stage")
    if node is None:
        raise Refusal(f"{path}: is a pixel prior and has no first stage")
    return replace(
        described, part="first_stage", node=node, state=within("first_stage.", described.state)
    )


def initialise(
    module: nn.Module,
    path: str | Path,
    config: Settings = None,
    *,
    ema: bool | float = True,
    estimated: bool = False,
) -> list[str]:
    """Start `module` (a Prior or a first stage) from the weights of a file, for fine-tuning; strict but for image channels and
    positions, which a network may begin to be told.

    estimated: scale and shift of a latent prior need not be the file's. Returns remarks: layers adapted from 3 image channels
    to 1, and a scale and shift left behind. Trainability of the parameters is left as it was.
    """
    source = describe(path, config, ema=ema)
    state, built = source.state, source.build()
    if source.part == "prior" and not isinstance(module, Prior):
        state, built = within("first_stage.", state), getattr(built, "first_stage", built)
    state, changed = adapt_channels(state, module.state_dict())
    placed = {key: value for key, value in unplaced(module).items() if key not in state}
    state |= placed
    trainable = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    training = module.training
    fill(module, {key: tensor.clone() for key, tensor in state.items()}, path)
    left = agree(built, module, path, ESTIMATED if estimated else ())
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in trainable)
    module.train(training)
    adapted = [f"adapted from 3 image channels to 1: {', '.join(changed)}"] if changed else []
    adapted += [f"positions begin with zero weights: {', '.join(placed)}"] if placed else []
    return adapted + [f"{phrase}, to be estimated" for phrase in left]


def unplaced(module: nn.Module) -> dict[str, Tensor]:
    """Zeros for the weights by which networks take positions, where one without them is the start of one with them."""
    places = [
        (name, one.place) for name, one in module.named_modules() if isinstance(one, ResidualUNet)
    ]
    return {
        f"{name}.place.weight": torch.zeros(place.weight.shape)
        for name, place in places
        if place is not None
    }


def agree(
    theirs: nn.Module, ours: nn.Module, path: str | Path, free: Sequence[str] = ()
) -> list[str]:
    """Raise Refusal if the weights of `theirs`, from this file, mean something else in `ours`; phrases for what is free."""
    found = differences(theirs, ours)
    if fixed := [phrase for what, phrase in found.items() if what not in free]:
        raise Refusal(
            f"{path}: its weights mean something else in this configuration: {'; '.join(fixed)}"
        )
    return list(found.values())


def describe(path: str | Path, config: Settings = None, *, ema: bool | float = True) -> Described:
    """Tell the family and read it: a model description and its state dict, before anything is built.

    The folder of a training run (logs/<project>/<name>) means its best checkpoint, or its last where none was validated.
    """
    path = trained.checkpoint(Path(path))
    settings = text_mapping(config) if isinstance(config, (str, Path)) else config
    said = description.contracts(settings, path) if settings else {}
    if said:
        settings = {
            key: value for key, value in (settings or {}).items() if key != "contracts"
        } or None
    try:
        described = _folder(path, settings) if path.is_dir() else _file(path, settings, ema)
        return replace(described, contracts=said) if said else described
    except (
        AttributeError,
        KeyError,
        IndexError,
        TypeError,
        RuntimeError,
        ArithmeticError,
    ) as error:  # contents of other kinds
        raise Refusal(
            f"{path}: what it holds is not of the kind its layout has ({_first_line(error)})"
        ) from None


def _file(path: Path, settings: Mapping[str, Any] | None, ema: bool | float) -> Described:
    content, wrapper = unwrapped(weights(path), path)
    if wrapper:
        warnings.warn(f"{path}: {wrapper}", stacklevel=4)
    described = _of_family(path, content, settings, ema)
    return replace(described, notes=(*described.notes, wrapper)) if wrapper else described


def _of_family(
    path: Path, content: Mapping[str, Any], settings: Mapping[str, Any] | None, ema: bool | float
) -> Described:
    if "config" in content and "state_dict" in content:
        _unneeded(path, settings)
        return own.describe_checkpoint(path, content, ema)
    if edm.recognises(content):
        return edm.describe(path, content, settings)
    state = content.get("state_dict", content)
    for family in (guided_diffusion, monai):
        if family.recognises(state):
            return family.describe(path, state, settings)
    for family in (stable_diffusion, compvis):
        if family.recognises(state):
            return family.describe(path, state, settings, bool(ema))
    raise Refusal(f"{path}: the layout of these weights is not known")


def _folder(path: Path, settings: Mapping[str, Any] | None) -> Described:
    if (path / "config.yaml").is_file() and (path / "model.safetensors").is_file():
        _unneeded(path, settings)
        return own.describe_folder(path)
    if diffusers_folder.recognises(path):
        return diffusers_folder.describe(path, settings)
    raise Refusal(
        f"{path}: no model here: needs config.yaml and model.safetensors, or a diffusers model_index.json"
    )


def _unneeded(path: Path, settings: Mapping[str, Any] | None) -> None:
    if settings is not None:
        raise Refusal(f"{path}: describes itself and takes no settings beside it")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
