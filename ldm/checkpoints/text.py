"""The encoded prompt of a text-conditioned model, by the model's own encoder or from a file the user gives.

The empty prompt needs no tokenizer; any other is cut into tokens by transformers (the `[text]` extra) with the vocabulary in a
`tokenizer/` folder, which is read as data from the disk.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from data.files import Refusal
from ldm.checkpoints.fitting import fill, skeleton
from ldm.checkpoints.options import Options
from ldm.checkpoints.reading import parse_safely, refuse_unsound, regular, weights
from ldm.networks.clip import END, LENGTH, START, context

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
UNUSED = (
    "embeddings.position_ids",
    "text_projection",
    "logit_scale",
    "attn_mask",
)  # constants, and CLIP's way to images
HEAD = 64  # channels per attention head in every CLIP text encoder


VOCABULARY = ("vocab.json", "merges.txt", "tokenizer.json")  # the first two, or the last alone
TOKENIZER = (
    *VOCABULARY,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)  # all that is read of a folder
TOKENIZER_LIMIT = 16 << 20  # bytes of each; CLIP's largest has 2 MB


def prompted(
    o: Options, encoder: Mapping[str, Tensor], width: int
) -> tuple[dict[str, Tensor], float, tuple[str, ...]]:
    """What a text-conditioned network attends to, by the user's settings: its buffers, its guidance, and what to note of it.

    o: takes `prompt`, `tokenizer`, `embedding` and `guidance`. encoder: weights of the text encoder, empty where there is none.
    """
    path = Path(o.path)
    said, file = o.take("prompt", str, "").strip(), o.take("embedding", str, None)
    folder, guidance = o.take("tokenizer", str, None), float(o.take("guidance", float, 1.0))
    if said and file is not None:
        raise Refusal(f"{path}: prompt and embedding say the same thing twice; give one of them")
    if guidance != 1 and not said and file is None:
        raise Refusal(
            f"{path}: guidance needs a prompt to guide to: give `prompt`, or `embedding`, a file with one encoded"
        )
    wanted = ({} if file is not None else {"text": said}) | ({} if guidance == 1 else {"empty": ""})
    if wanted and not encoder:
        raise Refusal(
            f"{path}: holds no text encoder; give `embedding`, a file with the encoded prompt, and no guidance"
        )
    place = (
        Path(folder)
        if folder is not None
        else (path if path.is_dir() else path.parent) / "tokenizer"
    )
    words = {name: tokens(prompt, place) for name, prompt in wanted.items()}
    buffers = encoded(encoder, words, path) if wanted else {}
    if file is not None:
        buffers["text"] = given(file, width)
    notes = (
        [f"prompt {said!r}"]
        if said
        else [f"prompt encoded in {Path(file).name}"]
        if file is not None
        else []
    )
    return buffers, guidance, (*notes, f"guidance {guidance:g}") if guidance != 1 else tuple(notes)


def given(path: str | Path, width: int) -> Tensor:
    """[77, width]: the tensor `text` of a file."""
    found = weights(path)
    text = found.get("text")
    if (
        set(found) != {"text"}
        or not isinstance(text, Tensor)
        or text.ndim != 2
        or text.shape[1] != width
    ):
        raise Refusal(f"{path}: must hold one tensor, `text`, of shape [tokens, {width}]")
    refuse_unsound(found, path)
    return text.float()


def tokens(prompt: str, folder: Path) -> list[int]:
    """CLIP's numbers of a prompt, without start and end; at most 75 (a longer prompt is refused, not cut)."""
    if not prompt:
        return []
    if not (
        (folder / "vocab.json").is_file()
        and (folder / "merges.txt").is_file()
        or (folder / "tokenizer.json").is_file()
    ):
        raise Refusal(
            f"{folder}: a prompt needs CLIP's tokenizer here ({', '.join(VOCABULARY)}); `tokenizer: DIR` names it"
        )
    for file in (folder / name for name in TOKENIZER):
        if file.exists() and regular(file).stat().st_size > TOKENIZER_LIMIT:
            raise Refusal(f"{file}: {file.stat().st_size} bytes is too large for a tokenizer")
    try:
        from transformers import CLIPTokenizerFast
    except ImportError:
        raise Refusal(
            "a prompt other than the empty one needs transformers: pip install palimpsest[text]"
        ) from None
    tokenizer = parse_safely(
        folder, lambda place: CLIPTokenizerFast.from_pretrained(str(place), local_files_only=True)
    )
    cut = parse_safely(folder, lambda _: tokenizer(["", prompt])["input_ids"])
    found = cut[1][1:-1]
    if (
        cut[0] != [START, END]
        or cut[1][:1] + cut[1][-1:] != [START, END]
        or not all(0 <= word < START for word in found)
    ):
        raise Refusal(f"{folder}: is not CLIP's tokenizer (start {START}, end {END})")
    if len(found) > LENGTH - 2:
        raise Refusal(f"{folder}: the prompt has {len(found)} tokens; at most {LENGTH - 2} fit")
    return found


def encoded(
    state: Mapping[str, Tensor], words: Mapping[str, list[int]], path: str | Path
) -> dict[str, Tensor]:
    """Prompts' tokens -> [77, width] each, by the text encoder whose weights these are (Hugging Face's or OpenCLIP's names)."""
    state = {key.removeprefix("text_model."): tensor for key, tensor in state.items()}
    open_clip = "positional_embedding" in state
    state = {key: tensor for key, tensor in state.items() if key not in UNUSED}
    renamed = _renamed(
        _apart(state) if open_clip else state, OPEN_CLIP if open_clip else HUGGING_FACE
    )
    layers = len({key.split(".")[1] for key in renamed if key.startswith("layers.")})
    width = renamed["norm.weight"].shape[0] if "norm.weight" in renamed else HEAD
    second = width != 768  # Stable Diffusion 2: OpenCLIP's activation and padding
    params = dict(
        layers=layers,
        width=width,
        heads=width // HEAD,
        activation="gelu" if second else "quick_gelu",
        skip=int(open_clip),
    )
    encoder = skeleton(
        {"target": "ldm.networks.clip.TextEncoder", "params": params}, len(renamed), path
    )
    fill(encoder, renamed, path)
    with torch.no_grad():
        return {
            name: encoder(context(numbers, 0 if second else END))[0]
            for name, numbers in words.items()
        }


def _apart(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """OpenCLIP's fused in_proj rows -> q, k, v."""
    apart: dict[str, Tensor] = {}
    for key, tensor in state.items():
        fused = re.match(r"^transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)$", key)
        if fused:
            apart |= {
                f"layers.{fused[1]}.{name}.{fused[2]}": part
                for name, part in zip("qkv", tensor.chunk(3))
            }
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
