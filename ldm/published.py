"""Networks of published weights that diffusers has almost: attention by number of heads, and conditions fed by attention.

All are called as network(x, time) or network(x, time, label), like every network under ldm.denoiser.
"""

import diffusers
import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn


class HeadsUNet(diffusers.UNet2DModel):
    """UNet2DModel whose attention has `heads` heads at every level (LSUN-churches), not heads of one width."""

    def __init__(self, heads: int, **config):
        super().__init__(**config)
        for module in self.modules():
            if isinstance(module, Attention):
                module.heads = heads


class ClassConditioned(nn.Module):
    """A cross-attention U-Net that attends to one learned vector per class (ImageNet cin256-v2).

    classes: rows of the table; the last one is the class of no class where the model was trained with one.
    """

    def __init__(self, network: nn.Module, classes: int, width: int):
        super().__init__()
        self.network, self.embedding = network, nn.Embedding(classes, width)

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        if label.min() < 0 or label.max() >= self.embedding.num_embeddings:
            raise ValueError(f"class labels must lie in 0..{self.embedding.num_embeddings - 1}")
        return self.network(x, time, self.embedding(label)[:, None]).sample


class TextConditioned(nn.Module):
    """A cross-attention U-Net that attends to one text, the same at every call, encoded once (Stable Diffusion).

    text: [tokens, width] of the encoded prompt, stored with the weights.
    guidance: s in e0 + s (e - e0) with e0 from `empty`, the encoded empty prompt; 1 needs and stores none.
    """

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
