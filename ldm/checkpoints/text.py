"""The encoded prompt of a text-conditioned model: from a file the user gives, or the empty prompt by the model's own encoder."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ldm.checkpoints.fitting import fill, skeleton
from ldm.checkpoints.reading import sound, weights
from ldm.clip import END, empty_prompt

HUGGING_FACE = [  # regular expressions, key by key; a leading "text_model." is dropped before
    (r"^embeddings\.token_embedding\.", "token."),
    (r"^embeddings\.position_embedding\.", "position."),
    (r"^encoder\.layers\.(\d+)\.layer_norm([12])\.", r"layers.\1.norm\2."),
    (r"^encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.", r"layers.\1.\2."),
    (r"^encoder\.layers\.(\d+)\.self_attn\.out_proj\.", r"layers.\1.out."),
    (r"^encoder\.layers\.(\d+)\.mlp\.fc1\.", r"layers.\1.up."),
    (r"^encoder\.layers\.(\d+)\.mlp\.fc2\.", r"layers.\1.down."),
    (r"^final_layer_norm\.", "norm."),
]
OPEN_CLIP = [
    (r"^token_embedding\.", "token."),
    (r"^positional_embedding$", "position.weight"),
    (r"^transformer\.resblocks\.(\d+)\.ln_([12])\.", r"layers.\1.norm\2."),
    (r"^transformer\.resblocks\.(\d+)\.attn\.out_proj\.", r"layers.\1.out."),
    (r"^transformer\.resblocks\.(\d+)\.mlp\.c_fc\.", r"layers.\1.up."),
    (r"^transformer\.resblocks\.(\d+)\.mlp\.c_proj\.", r"layers.\1.down."),
    (r"^ln_final\.", "norm."),
]
UNUSED = ("embeddings.position_ids", "text_projection", "logit_scale", "attn_mask")  # constants, and CLIP's way to images
HEAD = 64  # channels per attention head in every CLIP text encoder


def given(path: str | Path, width: int) -> Tensor:
    """[77, width]: the tensor `text` of a file."""
    found = weights(path)
    text = found.get("text")
    if set(found) != {"text"} or not isinstance(text, Tensor) or text.ndim != 2 or text.shape[1] != width:
        raise ValueError(f"{path}: must hold one tensor, `text`, of shape [tokens, {width}]")
    sound(found, path)
    return text.float()


def empty(state: Mapping[str, Tensor], path: str | Path) -> Tensor:
    """[77, width]: the empty prompt by the text encoder whose weights these are (Hugging Face's or OpenCLIP's names)."""
    state = {key.removeprefix("text_model."): tensor for key, tensor in state.items()}
    open_clip = "positional_embedding" in state
    state = {key: tensor for key, tensor in state.items() if key not in UNUSED}
    renamed = _renamed(_apart(state) if open_clip else state, OPEN_CLIP if open_clip else HUGGING_FACE)
    layers = len({key.split(".")[1] for key in renamed if key.startswith("layers.")})
    width = renamed["norm.weight"].shape[0] if "norm.weight" in renamed else HEAD
    second = width != 768  # Stable Diffusion 2: OpenCLIP's activation and padding
    params = dict(
        layers=layers, width=width, heads=width // HEAD, activation="gelu" if second else "quick_gelu", skip=int(open_clip)
    )
    encoder = skeleton({"target": "ldm.clip.TextEncoder", "params": params}, len(renamed), path)
    fill(encoder, renamed, path)
    with torch.no_grad():
        return encoder(empty_prompt(0 if second else END))[0]


def _apart(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """OpenCLIP's fused in_proj rows -> q, k, v."""
    apart: dict[str, Tensor] = {}
    for key, tensor in state.items():
        fused = re.match(r"^transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)$", key)
        if fused:
            apart |= {f"layers.{fused[1]}.{name}.{fused[2]}": part for name, part in zip("qkv", tensor.chunk(3))}
        else:
            apart[key] = tensor
    return apart


def _renamed(state: Mapping[str, Tensor], rules: list[tuple[str, str]]) -> dict[str, Tensor]:
    renamed = {}
    for key, tensor in state.items():
        for pattern, replacement in rules:
            key, changed = re.subn(pattern, replacement, key)
            if changed:
                break
        renamed[key] = tensor
    return renamed
