"""Folders as diffusers saves them: LDM, DDPM and Stable Diffusion pipelines, and single VQModel or AutoencoderKL folders.

Their JSON is read as data: only the listed classes are built, only from files inside the folder. A folder with a U-Net alone
lacks its schedule; lay a pipeline's `scheduler/` beside it.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from data.files import Refusal
from ldm.checkpoints import stable_diffusion
from ldm.checkpoints.description import Described, node, under
from ldm.checkpoints.keymaps import plain
from ldm.checkpoints.options import Options
from ldm.checkpoints.reading import text_mapping, weights

NETWORKS = ("UNet2DModel", "UNet2DConditionModel", "VQModel", "AutoencoderKL")
FILES = [
    f"{name}{end}"
    for name in ("diffusion_pytorch_model", "model", "pytorch_model")
    for end in (".safetensors", ".fp16.safetensors", ".bin")
]
TABLES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
PREDICTS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
OLD = [
    (r"\.query\.", ".to_q."),
    (r"\.key\.", ".to_k."),
    (r"\.value\.", ".to_v."),
    (r"\.proj_attn\.", ".to_out.0."),
]


def recognises(folder: Path) -> bool:
    return (folder / "model_index.json").is_file() or (folder / "config.json").is_file()


def describe(folder: Path, settings: Mapping[str, Any] | None) -> Described:
    """A prior from a pipeline, a first stage from an autoencoder's folder. settings: as for Stable Diffusion, or `label`."""
    if not (folder / "model_index.json").is_file():
        kind, inner, state = network(folder)
        if kind not in ("VQModel", "AutoencoderKL"):
            raise Refusal(
                f"{folder}: a {kind} alone does not say its noise schedule; give the whole pipeline's folder"
            )
        return Described("first_stage", _stage(kind, inner), under("model.", state), folder)
    kind, inner, state = network(folder / "unet")
    table, predicts = schedule(folder / "scheduler")
    first = next((folder / name for name in ("vqvae", "vae") if (folder / name).is_dir()), None)
    o = Options(settings or {}, folder)
    if first is None:
        return _prior(folder, o, inner, state, table, predicts)
    stage, autoencoder, first_state = network(first)
    scale = autoencoder["params"].get("scaling_factor", 1.0 if stage == "VQModel" else 0.18215)
    first_node, first_state = _stage(stage, autoencoder), under("model.", first_state)
    if kind == "UNet2DConditionModel":
        encoder = tensors(folder / "text_encoder") if (folder / "text_encoder").is_dir() else {}
        return stable_diffusion.assemble(
            folder, o, inner, state, first_node, first_state, encoder, predicts, table, scale
        )
    described = _prior(folder, o, inner, state, table, predicts)
    params = described.node["params"] | {
        "first_stage": first_node,
        "scale": scale,
        "image_channels": autoencoder["params"].get("in_channels", 3),
    }
    return Described(
        "prior",
        node("ldm.latent.LatentPrior", **params),
        {**described.state, **under("first_stage.", first_state)},
        folder,
    )


def _prior(
    folder: Path,
    o: Options,
    inner: Mapping[str, Any],
    state: Mapping[str, Tensor],
    table: Any,
    predicts: str,
) -> Described:
    params = inner["params"]
    size, label = params.get("sample_size") or o.take("size", int), o.take("label", int, None)
    o.finish()
    denoiser = node("ldm.denoiser.VP", network=inner, alpha_bar=table, predicts=predicts)
    height, width = size if isinstance(size, list) else (size, size)
    prior = node(
        "ldm.denoiser.Prior",
        denoiser=denoiser,
        shape=[params.get("in_channels", 3), height, width],
        label=label,
    )
    return Described("prior", prior, under("denoiser.network.", state), folder)


def _stage(kind: str, inner: Mapping[str, Any]) -> dict[str, Any]:
    return node("ldm.latent.VQ" if kind == "VQModel" else "ldm.latent.KL", model=inner)


def network(folder: Path) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    """(class name, node, state) of one model's folder; attention weights under the names of before 2023 are renamed."""
    config = text_mapping(folder / "config.json")
    kind = config.get("_class_name")
    if kind not in NETWORKS:
        raise Refusal(f"{folder}: class {kind!r} is not one of {', '.join(NETWORKS)}")
    params = {
        key: value for key, value in config.items() if not key.startswith("_")
    }  # null is a value here
    state = {}
    for key, tensor in tensors(folder).items():
        if ".attentions." in key:
            for pattern, replacement in OLD:
                key = re.sub(pattern, replacement, key)
        state[key] = (
            tensor.flatten(1)
            if re.search(r"\.to_(q|k|v|out\.0)\.weight$", key) and tensor.ndim > 2
            else tensor
        )
    return str(kind), {"target": f"diffusers.{kind}", "params": params}, state


def tensors(folder: Path) -> dict[str, Tensor]:
    """The weights of one model's folder."""
    found = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if found is None:
        raise Refusal(f"{folder}: has no weights ({', '.join(FILES[:3])})")
    return plain(weights(found))


def schedule(folder: Path) -> tuple[dict[str, Any], str]:
    """The table's node and what the network predicts, from scheduler_config.json."""
    config = text_mapping(folder / "scheduler_config.json")
    kind, predicts = (
        TABLES.get(config.get("beta_schedule", "linear")),
        PREDICTS.get(config.get("prediction_type", "epsilon")),
    )
    if (
        kind is None
        or predicts is None
        or config.get("trained_betas") is not None
        or config.get("rescale_betas_zero_snr")
    ):
        raise Refusal(
            f"{folder}: a schedule of this kind is not supported (linear, scaled_linear or cosine betas)"
        )
    ends = (
        {}
        if kind == "cosine"
        else {k: float(config.get(k, d)) for k, d in (("beta_start", 1e-4), ("beta_end", 0.02))}
    )
    return node(
        "ldm.schedule.Table", kind=kind, n=int(config.get("num_train_timesteps", 1000)), **ends
    ), predicts
