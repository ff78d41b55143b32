"""MONAI's generative models (AutoencoderKL, DiffusionModelUNet; 2-D, unconditional), where the mapping is exact.

Bundles hold bare state dicts, so config must say what they are, under the names of MONAI's constructors:

    autoencoder: {in_channels, latent_channels, channels, num_res_blocks, attention_levels, norm_num_groups, norm_eps, ...}
    diffusion:   {in_channels, channels, num_res_blocks, attention_levels, num_head_channels, norm_num_groups, norm_eps}
    scheduler:   {schedule, beta_start, beta_end, num_train_timesteps, prediction_type}
    size: 64     autoencoder_file: autoencoder.pt     scale_factor: 0.3     unit_range: true

unit_range says whether the images it was trained on lay in [0, 1], as those of MONAI's bundles do, or in [-1, 1] (false).
With `diffusion` the file is a prior (a latent one if `autoencoder_file` is given too), else an autoencoder.
"""

import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from data.files import Refusal
from ldm.checkpoints.description import Described, node, under
from ldm.checkpoints.keymaps import plain
from ldm.checkpoints.options import Options
from ldm.checkpoints.reading import weights
from ldm.schedule import Table, sigma_of

TABLES = {"linear_beta": "linear", "scaled_linear_beta": "scaled_linear"}
PREDICTS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
DETAILS = (  # of computation, or seen in the keys, where a difference is found
    "spatial_dims use_flash_attention use_checkpoint use_checkpointing include_fc "
    "use_combined_linear use_convtranspose upcast_attention transformer_num_layers dropout_cattn"
).split()
MEAN, MIDDLE = "quant_conv_mu.conv.weight", "middle_block.resnet_1.conv1.conv.weight"  # of the two
ATTENDS = [False, False, True, True]  # MONAI's own default
AUTOENCODER = [
    (r"^(encoder|decoder)\.blocks\.", r"\1."),
    (r"\.(?:postconv|conv)\.(?=(?:conv\.)?(?:weight|bias)$)", "."),  # wrappers around a convolution
    (r"\.conv\.(?=(?:weight|bias)$)", "."),
    (r"\.attn\.to_([qkv])\.", r".to_\1."),
    (r"\.(?:attn\.out_proj|proj_attn)\.", ".out."),
]
UNET = [
    (r"\.conv\.(?=(?:weight|bias)$)", "."),
    (r"^time_embed\.0\.", "time_embedding.linear_1."),
    (r"^time_embed\.2\.", "time_embedding.linear_2."),
    (r"^out\.0\.", "conv_norm_out."),
    (r"^out\.2\.", "conv_out."),
    (r"^middle_block\.resnet_1\.", "mid_block.resnets.0."),
    (r"^middle_block\.resnet_2\.", "mid_block.resnets.1."),
    (r"^middle_block\.attention\.", "mid_block.attentions.0."),
    (r"\.downsampler\.op\.", ".downsamplers.0.conv."),
    (r"\.upsampler\.(?:postconv|conv)\.", ".upsamplers.0.conv."),
    (r"\.skip_connection\.", ".conv_shortcut."),
    (r"(\.attentions\.\d+)\.norm\.", r"\1.group_norm."),
    (r"\.attn\.to_([qkv])\.", r".to_\1."),
    (r"\.(?:attn\.out_proj|proj_attn)\.", ".to_out.0."),
]


def recognises(state: Mapping[str, Any]) -> bool:
    return MEAN in state or MIDDLE in state


def describe(path: Path, state: Mapping[str, Any], settings: Mapping[str, Any] | None) -> Described:
    """A prior or a first stage."""
    o = Options(settings or {}, path)
    autoencoder, diffusion = o.take("autoencoder", dict, None), o.take("diffusion", dict, None)
    scheduler, size = o.take("scheduler", dict, {}), o.take("size", int, None)
    file, scale = o.take("autoencoder_file", str, None), o.take("scale_factor", float, 1.0)
    unit = o.take("unit_range", bool, None)
    o.finish()
    if MEAN in state:
        if autoencoder is None:
            raise Refusal(
                f"{path}: a MONAI AutoencoderKL; give its constructor's arguments as config, under `autoencoder:`"
            )
        found = renamed(plain(state), AUTOENCODER)
        return Described("first_stage", stage(autoencoder, unit, path), found, path)
    if diffusion is None or size is None:
        raise Refusal(
            f"{path}: a MONAI DiffusionModelUNet; give `diffusion:` (its constructor's arguments) and `size:` as config"
        )
    inner = unet(diffusion, size, path)
    table, predicts = schedule(scheduler, path)
    params = dict(
        denoiser=node("ldm.denoiser.VP", network=inner, alpha_bar=table, predicts=predicts),
        shape=[inner["params"]["in_channels"], size, size],
    )
    found = renamed(plain(state), UNET)
    if file is None:
        return _pixel(path, params, table, found, _said(unit, path))
    if autoencoder is None:
        raise Refusal(
            f"{path}: autoencoder_file is given but not `autoencoder:`, its constructor's arguments"
        )
    place = next((p for p in (path.parent / file, Path(file)) if p.is_file()), Path(file))
    params |= dict(
        first_stage=stage(autoencoder, unit, path),
        scale=scale,
        image_channels=autoencoder["in_channels"],
    )
    content = weights(place)
    first = renamed(plain(content.get("state_dict", content)), AUTOENCODER)
    found = under("denoiser.network.", found) | under("first_stage.", first)
    return Described("prior", node("ldm.latent.LatentPrior", **params), found, path)


def _said(unit: bool | None, path: Path) -> bool:
    if unit is None:
        raise Refusal(
            f"{path}: give unit_range: true if its images lay in [0, 1] (MONAI's bundles), false if in [-1, 1]"
        )
    return unit


def _pixel(
    path: Path,
    params: dict[str, Any],
    table: dict[str, Any],
    found: Mapping[str, Tensor],
    unit: bool,
) -> Described:
    """A diffusion model of images themselves; in units of [-1, 1] the noise levels of one of [0, 1] are doubled."""
    if not unit:
        prior = node("ldm.denoiser.Prior", **params)
        return Described("prior", prior, under("denoiser.network.", found), path)
    low, high = (2 * sigma_of(Table(**table["params"]).alpha_bar()[[0, -1]])).tolist()
    denoiser = node("ldm.preconditioning.UnitRange", denoiser=params["denoiser"])
    params = {**params, "denoiser": denoiser, "sigma_min": low, "sigma_max": high}
    prior = node("ldm.denoiser.Prior", **params)
    return Described("prior", prior, under("denoiser.denoiser.network.", found), path)


def stage(arguments: Mapping[str, Any], unit: bool | None, path: Path) -> dict[str, Any]:
    """MONAI's AutoencoderKL as ours."""
    o = Options(arguments, path, ignored=(*DETAILS, "out_channels"))
    widths = o.take("channels", list, None) or o.take("num_channels", list)
    blocks = _by_level(o, "num_res_blocks", 2, len(widths))
    middle = [o.take(f"with_{half}_nonlocal_attn", bool, True) for half in ("encoder", "decoder")]
    built = node(
        "ldm.networks.monai.AutoencoderKL",
        channels=o.take("in_channels", int, 1),
        latent=o.take("latent_channels", int, 3),
        widths=list(widths),
        blocks=blocks,
        attention=_by_level(o, "attention_levels", ATTENDS, len(widths)),
        middle=middle,
        groups=o.take("norm_num_groups", int, 32),
        eps=o.take("norm_eps", float, 1e-6),
        unit_range=_said(unit, path),
    )
    _two_dimensional(o)
    return built


def unet(arguments: Mapping[str, Any], size: int, path: Path) -> dict[str, Any]:
    """MONAI's DiffusionModelUNet as diffusers' UNet2DModel; resampling by convolution, one count of blocks for all levels."""
    o = Options(arguments, path, ignored=(*DETAILS, "with_conditioning"))
    widths = o.take("channels", list, None) or o.take("num_channels", list)
    levels = len(widths)
    blocks = _by_level(o, "num_res_blocks", 2, levels)
    head = _by_level(o, "num_head_channels", 8, levels)
    attends = _by_level(o, "attention_levels", ATTENDS, levels)
    if len(set(blocks)) != 1:
        raise Refusal(f"{path}: num_res_blocks that differ by level: not supported")
    if o.settings.get("with_conditioning") or o.take("resblock_updown", bool, False):
        raise Refusal(f"{path}: this kind of DiffusionModelUNet: not supported")
    attending = [*attends[:-1], True]  # the middle attends as the last level would
    if any(h < 1 for h, a in zip(head, attending) if a):
        raise Refusal(
            f"{path}: num_head_channels {head} must be positive where there is attention, and at the end"
        )
    built = node(
        "ldm.networks.published.GuidedUNet",
        heads=[width // h if h else 1 for width, h in zip(widths, head)],
        attention_head_dim=1,  # until `heads` says how many
        sample_size=size,
        in_channels=o.take("in_channels", int),
        out_channels=o.take("out_channels", int),
        block_out_channels=list(widths),
        layers_per_block=blocks[0],
        down_block_types=["AttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        up_block_types=["AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
        norm_num_groups=o.take("norm_num_groups", int, 32),
        norm_eps=o.take("norm_eps", float, 1e-6),
    )
    _two_dimensional(o)
    return built


def _by_level(o: Options, key: str, default: int | list[bool], levels: int) -> list[int]:
    """A setting that MONAI takes as one number for all levels, or as a list with one of each."""
    given = o.settings.get(key)
    value = default if given is None else given
    o.known.add(key)
    listed: Any = [value] * levels if type(value) is int else value
    whole = isinstance(listed, (list, tuple)) and all(isinstance(one, int) for one in listed)
    if not whole or len(listed) != levels:
        raise Refusal(
            f"{o.path}: {key} must have {levels} values, one a level, not {reprlib.repr(value)}"
        )
    return list(listed)


def schedule(arguments: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], str]:
    unread = ("clip_sample", "set_alpha_to_one", "steps_offset", "variance_type")
    o = Options(arguments, path, ignored=unread)
    kind = o.take("schedule", str, "linear_beta")
    predicts = o.take("prediction_type", str, "epsilon")
    if kind not in TABLES or predicts not in PREDICTS:
        raise Refusal(
            f"{path}: scheduler {kind} with {predicts} is not supported ({', '.join(TABLES)}; {', '.join(PREDICTS)})"
        )
    table = node(
        "ldm.schedule.Table",
        kind=TABLES[kind],
        n=o.take("num_train_timesteps", int, 1000),
        beta_start=o.take("beta_start", float, 1e-4),
        beta_end=o.take("beta_end", float, 2e-2),
    )
    o.finish()
    return table, PREDICTS[predicts]


def renamed(state: Mapping[str, Tensor], rules: list[tuple[str, str]]) -> dict[str, Tensor]:
    """Every rule applied to every key, in order."""
    found = {}
    for key, tensor in state.items():
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        found[key] = tensor
    return found


def _two_dimensional(o: Options) -> None:
    o.finish()
    if o.settings.get("spatial_dims", 2) != 2:
        raise Refusal(f"{o.path}: only two-dimensional MONAI models are supported")
