"""The U-Net that guided-diffusion, latent diffusion and Stable Diffusion share, described once: as a node and as key moves."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from data.files import Refusal
from ldm.checkpoints.description import node
from ldm.checkpoints.keymaps import rename, split_qkv, unet


@dataclass(frozen=True)
class OpenAIUNet:
    """Options by meaning. size: of the state. width x multipliers: channels per level. attends: levels with attention.

    head: channels per attention head, or heads: their number. order: of the rows of fused attention weights.
    resampling: residual blocks resample, with average pooling and nearest neighbours. classes: rows of an added label table.
    context: width of what is attended to (cross-attention), linear: its projections are linear layers.
    """

    size: int
    channels: int
    out: int
    width: int
    multipliers: tuple[float, ...]
    blocks: int
    attends: tuple[int, ...]
    head: int | None = None
    heads: int | None = None
    order: Literal["legacy", "new"] = "legacy"
    scale_shift: bool = False
    resampling: bool = False
    classes: int | None = None
    context: int | None = None
    linear: bool = False

    @property
    def widths(self) -> list[int]:
        return [int(self.width * m) for m in self.multipliers]

    def node(self) -> dict[str, Any]:
        """The diffusers network, as YAML would describe it."""
        attention = "CrossAttn" if self.context else "Attn"
        down, up = (
            ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D")
            if self.resampling
            else ("DownBlock2D", "UpBlock2D")
        )
        levels = range(len(self.multipliers))
        common = dict(
            sample_size=self.size,
            in_channels=self.channels,
            out_channels=self.out,
            block_out_channels=self.widths,
            layers_per_block=self.blocks,
            down_block_types=[
                f"{attention}DownBlock2D" if i in self.attends else down for i in levels
            ],
            up_block_types=[
                f"{attention}UpBlock2D" if i in self.attends else up for i in reversed(levels)
            ],
            resnet_time_scale_shift="scale_shift" if self.scale_shift else "default",
        )
        if self.context:
            return node(
                "diffusers.UNet2DConditionModel",
                **common,
                cross_attention_dim=self.context,
                attention_head_dim=self.heads
                or [
                    c // self._head for c in self.widths
                ],  # diffusers' name for the number of heads
                use_linear_projection=self.linear,
            )
        common |= dict(
            attn_norm_num_groups=32
            if self.scale_shift
            else None,  # else the middle attention is built without its norm
            downsample_type="resnet" if self.resampling else "conv",
            upsample_type="resnet" if self.resampling else "conv",
            num_class_embeds=self.classes,
        )
        common["attention_head_dim"] = None if self.heads else self._head
        time_width = self.width if self.widths[0] != self.width else None
        if self.heads or time_width:
            return node(
                "ldm.networks.published.GuidedUNet",
                heads=self.heads,
                time_width=time_width,
                **common,
            )
        return node("diffusers.UNet2DModel", **common)

    def weights(self, source: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Published keys (without their prefix) -> diffusers' keys."""
        table = unet(
            len(self.multipliers), self.blocks, self.attends, bool(self.context), self.resampling
        )
        renamed = rename(source, table)
        return renamed if self.context else split_qkv(renamed, self.order, self._head_of)

    @property
    def _head(self) -> int:
        if not self.head:
            raise Refusal("needs the number of attention heads or the channels per head")
        return self.head

    def _head_of(self, channels: int) -> int:
        return channels // self.heads if self.heads else self._head
