"""EDM snapshots (`network-snapshot-*.pkl`, `edm-*.pkl`) of EDM, Patch-Diffusion and PaDIS, read without running them.

Such a pickle holds, for every module, the source text of its class, and unpickling it as its authors do executes that
text. Here it comes out as inert records {class_name, state}; only names, numbers and tensors are taken from them.

What the file does not say is asked for as config: `size`, `patch`, `pad` (N, P, M) of a patch net and `unit_range: true`
if it was trained on [0, 1] (PaDIS), or `whole: true` for Patch-Diffusion; `label` of a class-conditional net.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.files import Refusal
from ldm.checkpoints.description import Described, node, under
from ldm.checkpoints.options import Options
from ldm.checkpoints.unpickling import Inert

PRECONDITIONERS = {
    "EDMPrecond": "ldm.denoiser.EDM",
    "VPPrecond": "ldm.preconditioning.ContinuousVP",
    "VEPrecond": "ldm.preconditioning.VE",
}
MOVES = [  # module paths of EDM -> ours, after resolutions were replaced by levels
    (r"^enc\.(\d+)_aux_residual\.", r"encoder.\1_residual."),
    (r"^enc\.", "encoder."),
    (r"^dec\.0_aux_norm\.", "out_norm."),
    (r"^dec\.0_aux_conv\.", "out_conv."),
    (r"^dec\.", "decoder."),
    (r"^map_noise\.freqs$", "frequencies"),
    (r"^map_layer([01])\.", r"map_time\1."),
]
IMPLIED = (  # by the shapes of its weights, or of training only
    *("augment_dim", "implicit_mlp", "dropout", "label_dropout"),
)
UNUSED = re.compile(
    r"(^map_augment\.|resample_filter$)"
)  # augmentation labels are zero at sampling; filters are constants
KINDS = {("positional", "standard"): "ddpm++", ("fourier", "residual"): "ncsn++"}
FORMS = {
    "ddpm++": (1, [1, 1]),
    "ncsn++": (2, [1, 3, 3, 1]),
}  # channel_mult_noise and resample_filter that go with them


def recognises(content: Mapping[str, Any]) -> bool:
    return record(content.get("ema")) is not None


def describe(
    path: Path, content: Mapping[str, Any], settings: Mapping[str, Any] | None
) -> Described:
    """A pixel or patch prior from a snapshot; it holds the averaged weights only."""
    name, outer = record(content["ema"]) or ("", {})
    kind = next(
        (target for suffix, target in PRECONDITIONERS.items() if name.endswith(suffix)), None
    )
    inner = record((outer.get("_modules") or {}).get("model"))
    if kind is None or inner is None:
        raise Refusal(
            f"{path}: holds a {name or 'network'} that is not one of {', '.join(PRECONDITIONERS)}"
        )
    network, options = unet(inner[0], inner[1], path)
    resolution, channels = options["resolution"], network["params"]["out"]
    state = {
        ours(key, resolution): tensor for key, tensor in tensors(inner[1]) if not UNUSED.search(key)
    }
    denoiser = node(kind, network=network, **_numbers(kind, outer))
    positions = network["params"]["channels"] - channels
    if positions not in (0, 2):
        raise Refusal(
            f"{path}: {positions} channels beside the image's {channels}; position channels are two"
        )
    levels = {
        key: outer[key] for key in ("sigma_min", "sigma_max") if 0 < _number(outer.get(key)) < 1e6
    }
    return _prior(
        path,
        denoiser,
        state,
        channels,
        resolution,
        bool(positions),
        network["params"].get("classes"),
        levels,
        settings,
    )


def _prior(
    path, denoiser, state, channels, resolution, positioned, classes, levels, settings
) -> Described:
    o = Options(settings or {}, path)
    size, patch, pad = (o.take(key, int, None) for key in ("size", "patch", "pad"))
    whole, unit, label = (
        o.take("whole", bool, False),
        o.take("unit_range", bool, None),
        o.take("label", int, None),
    )
    o.finish()
    if (
        classes
        and label is not None
        and not 0 <= label < classes
        or label is not None
        and not classes
    ):
        raise Refusal(f"{path}: label {label} does not fit a network of {classes or 0} classes")
    if positioned and not whole and None in (size, patch, pad, unit):
        raise Refusal(
            f"{path}: a patch net, and the file does not say its geometry: give size, patch, pad and unit_range (PaDIS: "
            "256, 56, 24, true), or whole: true (Patch-Diffusion)"
        )
    prefix = "denoiser.network."
    if unit:
        denoiser, prefix = (
            node("ldm.preconditioning.UnitRange", denoiser=denoiser),
            "denoiser." + prefix,
        )
        levels = {
            key: 2 * level
            for key, level in ({"sigma_min": 0.002, "sigma_max": 40.0} | levels).items()
        }
    if not positioned or whole:
        if positioned:
            denoiser, prefix = (
                node("ldm.preconditioning.Whole", denoiser=denoiser),
                "denoiser." + prefix,
            )
        shape = [channels, size or resolution, size or resolution]
        prior = node("ldm.denoiser.Prior", denoiser=denoiser, shape=shape, label=label, **levels)
    else:
        prior = node(
            "ldm.patch.PatchPrior",
            denoiser=denoiser,
            channels=channels,
            size=size,
            patch=patch,
            pad=pad,
            label=label,
            **levels,
        )
    return Described("prior", prior, under(prefix, state), path)


def record(value: Any) -> tuple[str, Mapping[str, Any]] | None:
    """(class name, state) of a persistent object, or of a plain torch container."""
    if not isinstance(value, Inert):
        return None
    meta = value.args[0] if value.args else None
    meta = meta.items if isinstance(meta, Inert) else meta
    if isinstance(meta, Mapping) and "class_name" in meta:
        state = meta.get("state")
        return str(meta["class_name"]), state if isinstance(state, Mapping) else {}
    return (type(value).__name__, value.state) if isinstance(value.state, Mapping) else None


def tensors(
    state: Mapping[str, Any], prefix: str = "", seen: set[int] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """(dotted name, tensor) of every parameter and buffer below a module's state; modules are a tree, or could be endless."""
    seen = set() if seen is None else seen
    if id(state) in seen:
        raise Refusal(f"module {prefix.rstrip('.')!r} occurs twice")
    seen.add(id(state))
    for group in ("_parameters", "_buffers"):
        for name, tensor in (state.get(group) or {}).items():
            if isinstance(tensor, torch.Tensor):
                yield f"{prefix}{name}", tensor
    for name, child in (state.get("_modules") or {}).items():
        found = record(child)
        if found is not None:
            yield from tensors(found[1], f"{prefix}{name}.", seen)


def unet(name: str, state: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """SongUNet's or DhariwalUNet's arguments -> the node of ours, and the resolution its names are made of."""
    arguments = state.get("_init_kwargs")
    arguments = arguments.items if isinstance(arguments, Inert) else arguments
    if name not in ("SongUNet", "DhariwalUNet"):
        raise Refusal(f"{path}: network {name!r} is neither SongUNet nor DhariwalUNet")
    song = name == "SongUNet"
    o = Options(arguments, path, ignored=IMPLIED)
    resolution, multipliers = (
        o.take("img_resolution", int),
        o.take("channel_mult", list, [1, 2, 2, 2] if song else [1, 2, 3, 4]),
    )
    attended = o.take("attn_resolutions", list, [16] if song else [32, 16, 8])
    common = dict(
        channels=o.take("in_channels", int),
        out=o.take("out_channels", int),
        width=o.take("model_channels", int, 128 if song else 192),
        multipliers=list(multipliers),
        blocks=o.take("num_blocks", int, 4 if song else 3),
        attention=[level for level in range(len(multipliers)) if resolution >> level in attended],
        classes=o.take("label_dim", int, 0) or None,
    )
    embedding = o.take("channel_mult_emb", int, 4)
    common["embedding"] = None if embedding == 4 else embedding
    if song:
        forms = o.take("embedding_type", str, "positional"), o.take("encoder_type", str, "standard")
        if forms not in KINDS or o.take("decoder_type", str, "standard") != "standard":
            raise Refusal(
                f"{path}: a SongUNet with {' and '.join(forms)} parts is neither DDPM++ nor NCSN++"
            )
        common["kind"] = KINDS[forms]
        found = o.take("channel_mult_noise", int, 1), list(o.take("resample_filter", list, [1, 1]))
        if found != FORMS[KINDS[forms]]:
            said = "channel_mult_noise {} and resample_filter {}".format(*found)
            usual = "{} and {}".format(*FORMS[KINDS[forms]])
            raise Refusal(f"{path}: a {KINDS[forms]} net of {said} is not supported; {usual} are")
    if o.settings.get("implicit_mlp"):
        raise Refusal(f"{path}: networks with implicit_mlp are not supported")
    o.finish()
    return node(f"ldm.networks.edm.{name}", **common), {"resolution": resolution}


def ours(key: str, resolution: int) -> str:
    """EDM's name of a tensor -> ours: resolutions become levels, 64x64_block0 of a 64-pixel net is 0_block0."""

    def level(match: re.Match) -> str:
        found = [k for k in range(resolution.bit_length()) if resolution >> k == int(match[1])]
        return f".{found[0]}_" if found else match[0]

    key = re.sub(r"\.(\d+)x\1_", level, key, count=1)
    for pattern, replacement in MOVES:
        key, changed = re.subn(pattern, replacement, key)
        if changed:
            break
    return key


def _numbers(kind: str, state: Mapping[str, Any]) -> dict[str, Any]:
    """The preconditioner's own constants, where the file states them."""
    names = {
        "ldm.denoiser.EDM": {"sigma_data": "sigma_data"},
        "ldm.preconditioning.ContinuousVP": {
            "beta_d": "beta_d",
            "beta_min": "beta_min",
            "steps": "M",
        },
    }
    return {
        ours: state[theirs]
        for ours, theirs in names.get(kind, {}).items()
        if _number(state.get(theirs)) > 0
    }


def _number(value: Any) -> float:
    return value if isinstance(value, (int, float)) else 0.0
