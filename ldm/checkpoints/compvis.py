"""Latent diffusion as CompVis published it (Rombach et al. 2022): a Lightning .ckpt and its own YAML, read as data.

Covers FFHQ, CelebA-HQ and LSUN (VQ-f4), churches (KL-f8, scale stored in the file), cin256-v2 (class-conditional), and
autoencoders alone. The `target:` lines of such a YAML are compared by name and never imported.

Keys: `model.diffusion_model.*` the U-Net; `model_ema.*` its average, names without dots; `first_stage_model.*`;
`cond_stage_model.*`; the schedule's buffers, which must agree with the YAML.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.files import Refusal
from ldm import schedule
from ldm.checkpoints import image_autoencoder
from ldm.checkpoints.description import Described, node, under, within
from ldm.checkpoints.keymaps import levels_of, plain
from ldm.checkpoints.openai_unet import OpenAIUNet
from ldm.checkpoints.options import Options
from ldm.checkpoints.reading import first_names, text_mapping, weights

UNET, AVERAGE = "model.diffusion_model.", "model_ema."
FIRST, CONDITION = "first_stage_model.", "cond_stage_model."
TABLES = ("betas", "logvar", "alphas_", "sqrt_", "log_one_", "posterior_", "lvlb_", "scale_factor")
PREDICTS = {"eps": "eps", "v": "v", "x0": "x0"}
TRAINING = (  # settings that do not change what the weights mean
    "base_learning_rate num_timesteps_cond log_every_t first_stage_key cond_stage_key monitor "
    "loss_type scheduler_config use_ema cond_stage_trainable concat_mode conditioning_key "
    "scale_by_std unet_trainable clip_denoised original_elbo_weight l_simple_weight given_betas "
    "v_posterior learn_logvar ckpt_path cosine_s use_positional_encodings ucg_training make_it_fit "
    "load_only_unet ignore_keys cond_stage_forward"
).split()


def recognises(state: Mapping[str, Any]) -> bool:
    return any(key.startswith((UNET, "encoder.down.0.")) for key in state if isinstance(key, str))


def beside(path: Path) -> Path | None:
    """The YAML a published archive puts next to its weights."""
    near = [path.with_suffix(".yaml"), path.with_name("config.yaml")]
    near += sorted(path.parent.glob("*-project.yaml"))
    return next((file for file in near if file.is_file()), None)


def describe(
    path: Path, state: Mapping[str, Any], settings: Mapping[str, Any] | None, ema: bool
) -> Described:
    """A latent diffusion model or, without a U-Net, an autoencoder. settings: the YAML's mapping, with `model:` on top;
    beside it, `label` chooses the class of a conditional model."""
    tensors = plain(state)
    if settings is None:
        near = beside(path)
        if near is None:
            raise Refusal(
                f"{path}: needs its YAML: give it as config, or lay it beside the weights as {path.stem}.yaml"
            )
        settings = text_mapping(near)
    options = Options(settings, path, ignored=("data", "lightning"))
    model = Options(options.take("model", dict), path, ignored=("target", "base_learning_rate"))
    label = options.take("label", int, None)
    options.finish()
    params = model.take("params", dict)
    if not any(key.startswith(UNET) for key in tensors):
        described, weight = image_autoencoder.describe(params, tensors, path)
        return Described("first_stage", described, weight, path)
    return _latent(path, tensors, Options(params, path, ignored=TRAINING), label, ema)


def _latent(
    path: Path, tensors: Mapping[str, Tensor], params: Options, label: int | None, ema: bool
) -> Described:
    unet = network(params.take("unet_config", dict), path)
    table = table_of(params, tensors, path)
    first, first_state = _first_stage(params.take("first_stage_config", dict), tensors, path)
    stored = tensors.get("scale_factor")
    scale = params.take("scale_factor", float, 1.0) if stored is None else float(stored)
    channels = params.take("channels", int, unet.channels)
    size = params.take("image_size", int, unet.size)
    predicts = params.take("parameterization", str, "eps")
    if predicts not in PREDICTS:
        raise Refusal(f"{path}: parameterization {predicts!r} is not one of {', '.join(PREDICTS)}")
    condition = params.settings.get("cond_stage_config")
    params.known |= {"cond_stage_config", "scale_factor"}
    params.finish()
    inner = unet.node()
    state = unet.weights(averaged(tensors, path) if ema else within(UNET, tensors))
    known: tuple[str, ...] = (UNET, AVERAGE, FIRST, *TABLES)
    if isinstance(condition, Mapping):
        inner, state, label = _classes(condition, inner, state, tensors, label, path)
        known += (CONDITION,)
    elif label is not None:
        raise Refusal(f"{path}: this model is unconditional and takes no label")
    extra = [key for key in tensors if not key.startswith(known)]
    if extra:
        raise Refusal(f"{path}: {len(extra)} unexpected tensors: {first_names(extra)}")
    prior = node(
        "ldm.latent.LatentPrior",
        denoiser=node("ldm.denoiser.VP", network=inner, alpha_bar=table, predicts=predicts),
        shape=[channels, size, size],
        first_stage=first,
        scale=scale,
        image_channels=first["params"]["model"]["params"]["in_channels"],
        label=label,
    )
    weight = {**under("denoiser.network.", state), **under("first_stage.", first_state)}
    return Described("prior", prior, weight, path)


def network(config: Mapping[str, Any], path: Path) -> OpenAIUNet:
    """`unet_config` of a YAML."""
    params = Options(config, path).take("params", dict)
    unread = ("use_checkpoint", "use_fp16", "dropout", "legacy", "dims", "conv_resample")
    o = Options(params, path, ignored=unread)
    multipliers = tuple(o.take("channel_mult", list))
    across = o.take("use_spatial_transformer", bool, False)
    if o.take("transformer_depth", int, 1) != 1:
        raise Refusal(f"{path}: transformer_depth other than 1 is not supported")
    head, heads = o.take("num_head_channels", int, -1), o.take("num_heads", int, -1)
    built = OpenAIUNet(
        size=o.take("image_size", int),
        channels=o.take("in_channels", int),
        out=o.take("out_channels", int),
        width=o.take("model_channels", int),
        multipliers=multipliers,
        blocks=o.take("num_res_blocks", int),
        attends=tuple(levels_of(o.take("attention_resolutions", list), len(multipliers))),
        head=head if head > 0 else None,
        heads=heads if head <= 0 and heads > 0 else None,
        order="new" if o.take("use_new_attention_order", bool, False) else "legacy",
        scale_shift=o.take("use_scale_shift_norm", bool, False),
        resampling=o.take("resblock_updown", bool, False),
        context=o.take("context_dim", int) if across else None,
        linear=o.take("use_linear_in_transformer", bool, False),
    )
    o.finish()
    return built


def table_of(params: Options, tensors: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """The schedule's node; the file's own table must be the one its YAML describes."""
    kind = params.take("beta_schedule", str, "linear")
    if kind != "linear":  # CompVis's `linear` is linear in sqrt(beta)
        raise Refusal(f"{path}: beta_schedule {kind!r} is not supported")
    start, end = params.take("linear_start", float, 1e-4), params.take("linear_end", float, 2e-2)
    table = schedule.Table("scaled_linear", start, end, params.take("timesteps", int, 1000))
    stored = tensors.get("alphas_cumprod")
    if stored is not None and not _agree(stored, table.alpha_bar()):
        raise Refusal(
            f"{path}: the noise table in the file is not the one described (linear_start {start}, linear_end {end})"
        )
    ends = dict(beta_start=start, beta_end=end)
    return node("ldm.schedule.Table", kind="scaled_linear", n=table.n, **ends)


def _agree(stored: Tensor, table: Tensor) -> bool:
    """Up to the precision in which the file has them."""
    precision = max(1e-5, 2 * torch.finfo(stored.dtype).eps)
    return stored.shape == table.shape and torch.allclose(stored.double(), table, rtol=precision)


def averaged(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The U-Net's averaged weights where the file has them (names without dots), else its weights (`ema-only` files)."""
    raw = within(UNET, tensors)
    if not any(key.startswith(AVERAGE) for key in tensors):
        return raw
    names = {key: AVERAGE + f"{UNET.removeprefix('model.')}{key}".replace(".", "") for key in raw}
    missing = [name for name in names.values() if name not in tensors]
    if missing:
        raise Refusal(
            f"{path}: {len(missing)} averaged weights are missing: {first_names(missing)};"
            " the raw ones: --raw of convert_checkpoint.py, ema=False in Python"
        )
    known = {name.removeprefix(AVERAGE) for name in names.values()} | {"decay", "num_updates"}
    stray = within(AVERAGE, tensors).keys() - known
    if stray:
        raise Refusal(
            f"{path}: {len(stray)} averaged weights have no raw ones: {first_names(sorted(stray))}"
        )
    return {key: tensors[name] for key, name in names.items()}


def _first_stage(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """From the file itself or, where it holds none, from the file that `ckpt_path` names."""
    params = Options(config, path, ignored=("target",)).take("params", dict)
    bundled = within(FIRST, tensors)
    if bundled:
        return image_autoencoder.describe(params, bundled, path)
    named = params.get("ckpt_path")
    if not isinstance(named, str):
        raise Refusal(
            f"{path}: holds no first stage; name its file as first_stage_config.params.ckpt_path"
        )
    places = [Path(named), path.parent / named, path.parent / Path(named).name]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise Refusal(f"{path}: its first stage {named} is not there")
    content = weights(found)
    return image_autoencoder.describe(params, plain(content.get("state_dict", content)), found)


def _classes(config, inner, state, tensors, label, path):
    """The class table a conditional model attends to; the last class means none and is the default."""
    params = Options(config, path, ignored=("target",)).take("params", dict)
    o = Options(params, path, ignored=("key", "ucg_rate"))
    width, classes = o.take("embed_dim", int), o.take("n_classes", int, 1000)
    o.finish()
    label = classes - 1 if label is None else label
    if not 0 <= label < classes:
        raise Refusal(f"{path}: label {label} must lie in 0..{classes - 1}")
    inner = node(
        "ldm.networks.published.ClassConditioned", network=inner, classes=classes, width=width
    )
    return inner, {**under("network.", state), **within(CONDITION, tensors)}, label
