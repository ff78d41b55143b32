"""Where the weights of published layouts live in diffusers' modules, as tables from module path to module path.

Two layouts cover CompVis, Stable Diffusion and guided-diffusion: the U-Net of Dhariwal & Nichol 2021 (`input_blocks`,
`middle_block`, `output_blocks`) and the autoencoder of Esser et al. 2021 (`encoder.down.i.block.j`, ...). A key whose module
is in no table keeps its name, so that strict loading reports it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from data.files import Refusal

Table = dict[str, str]  # source module path -> target module path

RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
ATTENTION = {"norm": "group_norm", "qkv": "qkv", "proj_out": "to_out.0"}
CROSS = {
    f"{a}.{m}": f"{a}.{m}" for a in ("attn1", "attn2") for m in ("to_q", "to_k", "to_v", "to_out.0")
}
TRANSFORMER = {
    **{name: name for name in ("norm", "proj_in", "proj_out")},
    **{
        f"transformer_blocks.0.{m}": f"transformer_blocks.0.{m}"
        for m in (*CROSS, "ff.net.0.proj", "ff.net.2", "norm1", "norm2", "norm3")
    },
}
IMAGE_RESIDUAL = {
    **{m: m for m in ("norm1", "conv1", "norm2", "conv2")},
    "nin_shortcut": "conv_shortcut",
}
IMAGE_ATTENTION = {
    "norm": "group_norm",
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "proj_out": "to_out.0",
}


def unet(
    levels: int,
    blocks: int,
    attends: Sequence[int],
    transformer: bool = False,
    resampling: bool = False,
) -> Table:
    """The U-Net: `blocks` residual blocks a level, one more on the way up, attention after those of the levels in `attends`.

    transformer: attention is a transformer block. resampling: down- and upsampling are residual blocks, not convolutions.
    """
    attention = TRANSFORMER if transformer else ATTENTION
    down = (RESIDUAL, "0") if resampling else ({"op": "conv"}, "0")
    up = RESIDUAL if resampling else {"conv": "conv"}
    table = {
        "time_embed.0": "time_embedding.linear_1",
        "time_embed.2": "time_embedding.linear_2",
        "label_emb": "class_embedding",
        "input_blocks.0.0": "conv_in",
        "out.0": "conv_norm_out",
        "out.2": "conv_out",
        **leaves("middle_block.0", "mid_block.resnets.0", RESIDUAL),
        **leaves("middle_block.1", "mid_block.attentions.0", attention),
        **leaves("middle_block.2", "mid_block.resnets.1", RESIDUAL),
    }
    i = 1
    for level in range(levels):
        for j in range(blocks):
            table |= leaves(f"input_blocks.{i}.0", f"down_blocks.{level}.resnets.{j}", RESIDUAL)
            if level in attends:
                table |= leaves(
                    f"input_blocks.{i}.1", f"down_blocks.{level}.attentions.{j}", attention
                )
            i += 1
        if level < levels - 1:
            table |= leaves(
                f"input_blocks.{i}.{down[1]}", f"down_blocks.{level}.downsamplers.0", down[0]
            )
            i += 1
    i = 0
    for b, level in enumerate(reversed(range(levels))):
        for j in range(blocks + 1):
            table |= leaves(f"output_blocks.{i}.0", f"up_blocks.{b}.resnets.{j}", RESIDUAL)
            if level in attends:
                table |= leaves(f"output_blocks.{i}.1", f"up_blocks.{b}.attentions.{j}", attention)
            if j == blocks and level > 0:
                place = 2 if level in attends else 1
                table |= leaves(f"output_blocks.{i}.{place}", f"up_blocks.{b}.upsamplers.0", up)
            i += 1
    return table


def autoencoder(levels: int, blocks: int, attends: Sequence[int]) -> Table:
    """The VQ or KL autoencoder; levels are numbered from the image in its encoder, in its decoder diffusers counts back."""
    table = {name: name for name in ("quant_conv", "post_quant_conv", "quantize.embedding")}
    for half, way, count in (("encoder", "down", blocks), ("decoder", "up", blocks + 1)):
        table |= {
            f"{half}.{a}": f"{half}.{b}"
            for a, b in (
                ("conv_in", "conv_in"),
                ("norm_out", "conv_norm_out"),
                ("conv_out", "conv_out"),
            )
        }
        table |= leaves(f"{half}.mid.block_1", f"{half}.mid_block.resnets.0", IMAGE_RESIDUAL)
        table |= leaves(f"{half}.mid.attn_1", f"{half}.mid_block.attentions.0", IMAGE_ATTENTION)
        table |= leaves(f"{half}.mid.block_2", f"{half}.mid_block.resnets.1", IMAGE_RESIDUAL)
        for level in range(levels):
            place = level if half == "encoder" else levels - 1 - level
            source, target = f"{half}.{way}.{level}", f"{half}.{way}_blocks.{place}"
            for j in range(count):
                table |= leaves(f"{source}.block.{j}", f"{target}.resnets.{j}", IMAGE_RESIDUAL)
                if level in attends:
                    table |= leaves(
                        f"{source}.attn.{j}", f"{target}.attentions.{j}", IMAGE_ATTENTION
                    )
            table[f"{source}.{way}sample.conv"] = f"{target}.{way}samplers.0.conv"
    return table


def leaves(source: str, target: str, names: Mapping[str, str]) -> Table:
    return {f"{source}.{a}": f"{target}.{b}" for a, b in names.items()}


def rename(state: Mapping[str, Tensor], table: Table) -> dict[str, Tensor]:
    """Keys by the table; attention weights stored as 1x1 convolutions become the linear layers diffusers has."""
    renamed = {}
    for key, tensor in state.items():
        module, _, leaf = key.rpartition(".")
        target = table.get(module, module)
        if target.rpartition(".")[2] in ("to_q", "to_k", "to_v", "qkv") or target.endswith(
            "to_out.0"
        ):
            tensor = tensor.flatten(1) if tensor.ndim > 2 else tensor
        renamed[f"{target}.{leaf}" if module else leaf] = tensor
    return renamed


def split_qkv(
    state: Mapping[str, Tensor], order: Literal["legacy", "new"], head: Callable[[int], int]
) -> dict[str, Tensor]:
    """Fused `qkv` rows -> to_q, to_k, to_v. Rows are ordered (head, qkv, channel) in the legacy order, (qkv, head, channel)
    in the new one. head: channels of an attention layer -> channels per head."""
    split: dict[str, Tensor] = {}
    for key, tensor in state.items():
        module, _, leaf = key.rpartition(".")
        if not module.endswith(".qkv"):
            split[key] = tensor
            continue
        width = head(len(tensor) // 3)
        if width < 1 or len(tensor) % (3 * width):
            raise Refusal(
                f"{key} has {len(tensor)} rows, not a multiple of 3 x {width} channels per head"
            )
        rows = (
            tensor.unflatten(0, (-1, 3, width))
            if order == "legacy"
            else tensor.unflatten(0, (3, -1, width)).transpose(0, 1)
        )
        for name, part in zip(("to_q", "to_k", "to_v"), rows.unbind(1)):
            split[f"{module.removesuffix('qkv')}{name}.{leaf}"] = part.flatten(0, 1)
    return split


def levels_of(factors: Iterable[int], levels: int) -> list[int]:
    """Attention given as downsampling factors (CompVis: 8, 4, 2) -> levels (3, 2, 1) that exist."""
    wanted = set(factors)
    return [level for level in range(levels) if 2**level in wanted]


def plain(state: Mapping[str, object], prefix: str = "") -> dict[str, Tensor]:
    """The tensors under a prefix, without it."""
    return {
        k.removeprefix(prefix): v
        for k, v in state.items()
        if k.startswith(prefix) and isinstance(v, torch.Tensor)
    }
