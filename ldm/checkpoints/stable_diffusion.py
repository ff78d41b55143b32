"""Stable Diffusion 1.x and 2.x in CompVis's layout (.ckpt or .safetensors), eps or v prediction, one fixed prompt.

config (all optional for 1.x): `predicts` eps | v, which no file says and 2.x files need; `image_size` in pixels;
`prompt`, encoded by the file's own CLIP (a tokenizer is needed, in `tokenizer/` beside the file or where `tokenizer` says), or
`embedding`, a file with the encoded prompt (tensor `text`), otherwise it is the empty prompt, which needs no tokenizer;
`guidance` s of classifier-free guidance, 1 by default (the empty prompt needs none).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from data.files import Refusal
from ldm.checkpoints import image_autoencoder, text
from ldm.checkpoints.compvis import AVERAGE, CONDITION, FIRST, TABLES, UNET, averaged
from ldm.checkpoints.description import Described, node, under, within
from ldm.checkpoints.keymaps import plain
from ldm.checkpoints.openai_unet import OpenAIUNet
from ldm.checkpoints.options import Options
from ldm.checkpoints.reading import first_names

CROSS = UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"  # [width, context]
TEXT = (
    CONDITION + "transformer.",
    CONDITION + "model.",
    "conditioner.",
)  # text encoders: of version 1, of 2, of SDXL
KL_F8 = {
    "embed_dim": 4,
    "ddconfig": {
        "z_channels": 4,
        "resolution": 256,
        "ch": 128,
        "ch_mult": [1, 2, 4, 4],
        "num_res_blocks": 2,
    },
}
VERSIONS: dict[int, dict[str, Any]] = {
    768: {"heads": 8, "linear": False},
    1024: {"head": 64, "linear": True},
}  # by context width


def recognises(state: Mapping[str, Any]) -> bool:
    """Every U-Net that attends to text; of those, `describe` reads the two versions that there are."""
    told = any(key.startswith(TEXT) for key in state if isinstance(key, str))
    return (
        CROSS in state or told and bool(_contexts(state))
    ) and FIRST + "quant_conv.weight" in state


def _contexts(state: Mapping[str, Any]) -> list[int]:
    """Widths of what the U-Net attends to."""
    ends = ".attn2.to_k.weight"
    return sorted(
        {
            t.shape[-1]
            for k, t in state.items()
            if isinstance(k, str) and k.startswith(UNET) and k.endswith(ends)
        }
    )


def describe(
    path: Path, state: Mapping[str, Any], settings: Mapping[str, Any] | None, ema: bool
) -> Described:
    """A latent prior."""
    tensors = plain(state)
    contexts = _contexts(tensors)
    if CROSS not in tensors or len(contexts) != 1 or contexts[0] not in VERSIONS:
        widths = ", ".join(map(str, contexts))
        raise Refusal(
            f"{path}: its U-Net attends to text of width {widths}; Stable Diffusion 1 (768) and 2 (1024) can be read,"
            " others (SDXL, latent diffusion's text-to-image) cannot"
        )
    context = contexts[0]
    unet = OpenAIUNet(
        64,
        4,
        4,
        tensors[CROSS].shape[0],
        (1, 2, 4, 4),
        2,
        (0, 1, 2),
        context=context,
        **VERSIONS[context],
    )
    o = Options({} if settings is None or "model" in settings else settings, path)
    predicts = o.take("predicts", str, "eps" if context == 768 else None)
    if predicts not in ("eps", "v"):
        raise Refusal(
            f"{path}: Stable Diffusion 2 files do not say what they predict: give `predicts: eps` (base) or `v` (768)"
        )
    extra = [
        key for key in tensors if not key.startswith((UNET, AVERAGE, FIRST, CONDITION, *TABLES))
    ]
    if extra:
        raise Refusal(f"{path}: {len(extra)} unexpected tensors: {first_names(extra)}")
    first, first_state = image_autoencoder.describe(KL_F8, within(FIRST, tensors), path)
    encoder = within(CONDITION + "transformer.", tensors) or within(CONDITION + "model.", tensors)
    return assemble(
        path,
        o,
        unet.node(),
        unet.weights(averaged(tensors, path) if ema else within(UNET, tensors)),
        first,
        first_state,
        encoder,
        predicts,
    )


def assemble(
    path: Path,
    o: Options,
    network: Mapping[str, Any],
    network_state: Mapping[str, Tensor],
    first: Mapping[str, Any],
    first_state: Mapping[str, Tensor],
    encoder: Mapping[str, Tensor],
    predicts: str,
    table: Mapping[str, Any] | None = None,
    scale: float = 0.18215,
) -> Described:
    """U-Net, autoencoder and prompt as one prior; o: the user's settings."""
    size = o.take("image_size", int, 768 if predicts == "v" else 512)
    width = network["params"]["cross_attention_dim"]
    prompt, guidance, notes = text.prompted(o, encoder, width)
    o.finish()
    inner = node(
        "ldm.networks.published.TextConditioned",
        network=network,
        tokens=len(prompt["text"]),
        width=width,
        guidance=guidance,
    )
    table = table or node(
        "ldm.schedule.Table", kind="scaled_linear", beta_start=0.00085, beta_end=0.012
    )
    prior = node(
        "ldm.latent.LatentPrior",
        denoiser=node("ldm.denoiser.VP", network=inner, alpha_bar=table, predicts=predicts),
        shape=[4, size // 8, size // 8],
        first_stage=first,
        scale=scale,
        image_channels=3,
    )
    state = {**under("network.", network_state), **prompt}
    return Described(
        "prior",
        prior,
        {**under("denoiser.network.", state), **under("first_stage.", first_state)},
        path,
        notes,
    )
