"""Pixel U-Nets of guided-diffusion (Dhariwal & Nichol 2021): a bare state dict, and the options its programs were given.

The FFHQ-256 net of DPS (`ffhq_10m.pt`) and ImageNet-256 (`256x256_diffusion_uncond.pt`) are recognised by their shapes; any
other needs its options, under the names of guided-diffusion's flags (DPS's `model_config` YAML has them).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from data.files import Refusal
from ldm.checkpoints.description import Described, node, under
from ldm.checkpoints.keymaps import levels_of, plain
from ldm.checkpoints.openai_unet import OpenAIUNet
from ldm.checkpoints.options import Options

COMMON = {
    "image_size": 256,
    "learn_sigma": True,
    "num_head_channels": 64,
    "use_scale_shift_norm": True,
    "resblock_updown": True,
}
PUBLISHED = {  # by (channels, modules on the way down, classes)
    (128, 12, 0): {
        **COMMON,
        "num_channels": 128,
        "num_res_blocks": 1,
        "attention_resolutions": "16",
    },
    (256, 18, 0): {
        **COMMON,
        "num_channels": 256,
        "num_res_blocks": 2,
        "attention_resolutions": "32,16,8",
    },
}
MULTIPLIERS = {
    512: "0.5,1,1,2,2,4,4",
    256: "1,1,2,2,4,4",
    128: "1,1,2,3,4",
    64: "1,2,3,4",
}  # for channel_mult ""
UNUSED = (
    *(
        "use_checkpoint",
        "use_fp16",
        "dropout",
        "num_heads_upsample",
        "model_path",
        "timestep_respacing",
        "rescale_learned_sigmas",
    ),
    *("use_kl", "classifier_use_fp16", "schedule_sampler", "model_type"),
)


def recognises(state: Mapping[str, Any]) -> bool:
    return "input_blocks.0.0.weight" in state and "time_embed.0.weight" in state


def describe(path: Path, state: Mapping[str, Any], settings: Mapping[str, Any] | None) -> Described:
    """A pixel prior. settings: guided-diffusion's flags; `label` chooses the class of a conditional model."""
    tensors = plain(state)
    if settings is None:
        width, classes = (
            len(tensors["input_blocks.0.0.weight"]),
            len(tensors.get("label_emb.weight", ())),
        )
        depth = len({key.split(".")[1] for key in tensors if key.startswith("input_blocks.")})
        settings = PUBLISHED.get((width, depth, classes))
        if settings is None:
            raise Refusal(
                f"{path}: not a guided-diffusion model known by shape; give its options (num_channels, ...) as config"
            )
    o = Options(settings, path, ignored=UNUSED)
    unet = network(o, tensors)
    label = o.take("label", int, None)
    if unet.classes and (label is None or not 0 <= label < unet.classes):
        raise Refusal(
            f"{path}: a class-conditional model needs `label: 0..{unet.classes - 1}`, not {label}"
        )
    prior = node(
        "ldm.denoiser.Prior",
        denoiser=node(
            "ldm.denoiser.VP",
            network=unet.node(),
            alpha_bar=_table(o),
            predicts="x0" if o.take("predict_xstart", bool, False) else "eps",
        ),
        shape=[3, unet.size, unet.size],
        label=label,
    )
    o.finish()
    return Described("prior", prior, under("denoiser.network.", unet.weights(tensors)), path)


def network(o: Options, tensors: Mapping[str, Tensor]) -> OpenAIUNet:
    """The flags of `create_model`; attention is given as resolutions of the image, "32,16,8"."""
    size = o.take("image_size", int)
    listed = _list(o, "channel_mult", "") or MULTIPLIERS.get(size)
    if listed is None:
        raise Refusal(f"{o.path}: image_size {size} has no usual channel_mult; give one")
    multipliers = tuple(float(m) for m in listed.split(","))
    attends = levels_of(
        (size // int(r) for r in _list(o, "attention_resolutions", "16,8").split(",") if int(r)),
        len(multipliers),
    )
    head, heads = o.take("num_head_channels", int, -1), o.take("num_heads", int, 4)
    if o.take("class_cond", bool, False) != ("label_emb.weight" in tensors):
        raise Refusal(
            f"{o.path}: class_cond disagrees with the file, which {'has' if 'label_emb.weight' in tensors else 'lacks'} label_emb"
        )
    return OpenAIUNet(
        size=size,
        channels=3,
        out=6 if o.take("learn_sigma", bool, False) else 3,
        width=o.take("num_channels", int),
        multipliers=multipliers,
        blocks=o.take("num_res_blocks", int),
        attends=tuple(attends),
        head=head if head > 0 else None,
        heads=heads if head <= 0 else None,
        order="new" if o.take("use_new_attention_order", bool, False) else "legacy",
        scale_shift=o.take("use_scale_shift_norm", bool, False),
        resampling=o.take("resblock_updown", bool, False),
        classes=len(tensors["label_emb.weight"]) if "label_emb.weight" in tensors else None,
    )


def _list(o: Options, key: str, default: str) -> str:
    """Numbers as "32,16,8"; of a single one YAML makes a number (`attention_resolutions: 16`, as DPS's files write it)."""
    single = isinstance(o.settings.get(key), int)
    return str(o.take(key, int if single else str, default))


def _table(o: Options) -> dict[str, Any]:
    """`linear` is DDPM's table, its ends scaled with the number of steps so that 1,000 steps give 1e-4 ... 0.02."""
    kind, steps = o.take("noise_schedule", str, "linear"), o.take("diffusion_steps", int, 1000)
    if kind not in ("linear", "cosine"):
        raise Refusal(f"{o.path}: noise_schedule {kind!r} is neither linear nor cosine")
    if o.take("rescale_timesteps", bool, False) and steps != 1000:
        raise Refusal(f"{o.path}: rescale_timesteps with {steps} diffusion_steps is not supported")
    ends = {"beta_start": 0.1 / steps, "beta_end": 20 / steps} if kind == "linear" else {}
    return node("ldm.schedule.Table", kind=kind, n=steps, **ends)
