"""Networks of published weights that diffusers has almost: other heads or time widths, and conditions fed by attention.

All are called as network(x, time) or network(x, time, label), like every network under ldm.denoiser.
"""

from collections.abc import Sequence
from typing import Any

import diffusers
import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn

from data.files import Refusal


class GuidedUNet(diffusers.UNet2DModel):
    """UNet2DModel with what guided-diffusion can vary beside it.

    heads: number of attention heads (LSUN-churches), one for all levels or one a level, instead of heads of one width.
    time_width: sinusoids of the time, where that is not the first level's width (guided-diffusion's 512-pixel nets).
    """

    def __init__(
        self, heads: int | Sequence[int] | None = None, time_width: int | None = None, **config
    ):
        super().__init__(**config, time_embedding_dim=4 * time_width if time_width else None)
        if time_width:
            self.time_proj = Timesteps(time_width, flip_sin_to_cos=True, downscale_freq_shift=0)
            self.time_embedding = TimestepEmbedding(time_width, 4 * time_width)
        net: Any = self
        blocks = [*net.down_blocks, net.mid_block, *net.up_blocks]
        levels = len(net.down_blocks)
        if isinstance(heads, Sequence) and len(heads) != levels:
            raise Refusal(f"heads {heads}: must be one number, or {levels}, one a level")
        by_level = list(heads) if isinstance(heads, Sequence) else [heads] * levels
        for block, count in zip(blocks, [*by_level, by_level[-1], *reversed(by_level)]):
            for module in block.modules():
                if count is not None and isinstance(module, Attention):
                    module.heads = count


class ClassConditioned(nn.Module):
    """A cross-attention U-Net that attends to one learned vector per class (ImageNet cin256-v2).

    classes: rows of the table; the last one is the class of no class where the model was trained with one.
    """

    def __init__(self, network: nn.Module, classes: int, width: int):
        super().__init__()
        self.network, self.classes, self.embedding = network, classes, nn.Embedding(classes, width)

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        if label.min() < 0 or label.max() >= self.classes:
            raise Refusal(f"class labels must lie in 0..{self.classes - 1}")
        return self.network(x, time, self.embedding(label)[:, None]).sample


class TextConditioned(nn.Module):
    """A cross-attention U-Net that attends to one text, the same at every call, encoded once (Stable Diffusion).

    text: [tokens, width] of the encoded prompt, stored with the weights.
    guidance: s in e0 + s (e - e0) with e0 from `empty`, the encoded empty prompt; 1 needs and stores none.
    """

    text: Tensor
    empty: Tensor

    def __init__(self, network: nn.Module, tokens: int, width: int, guidance: float = 1.0):
        super().__init__()
        self.network, self.guidance = network, guidance
        self.register_buffer("text", torch.zeros(tokens, width))
        if guidance != 1:
            self.register_buffer("empty", torch.zeros(tokens, width))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        asked = self.network(x, time, self.text.to(x).expand(len(x), -1, -1)).sample
        if self.guidance == 1:
            return asked
        free = self.network(x, time, self.empty.to(x).expand(len(x), -1, -1)).sample
        return free + self.guidance * (asked - free)
