"""The text encoder of CLIP (Radford et al. 2021), enough of it to encode a prompt's tokens once, when a model is loaded."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

START, END, LENGTH = 49406, 49407, 77  # CLIP's vocabulary and context


def context(words: Sequence[int], padding: int = END) -> Tensor:
    """[1, 77] tokens of a prompt of at most 75 words' tokens. Stable Diffusion 1 pads with the end token, 2 with token 0."""
    return torch.tensor([[START, *words, END] + [padding] * (LENGTH - 2 - len(words))])


class Layer(nn.Module):
    """Pre-norm causal self-attention and a two-layer perceptron."""

    def __init__(self, width: int, heads: int, activation: Literal["quick_gelu", "gelu"]):
        super().__init__()
        self.heads, self.activation = heads, activation
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        q, k, v = (
            layer(h).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        x = x + self.out(
            functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            .transpose(1, 2)
            .flatten(2)
        )
        h = self.up(self.norm2(x))
        return x + self.down(
            functional.gelu(h) if self.activation == "gelu" else h * torch.sigmoid(1.702 * h)
        )


class TextEncoder(nn.Module):
    """Tokens [B, 77] -> [B, 77, width], normalised, not projected.

    skip: last layers left out; Stable Diffusion 2 uses the layer before the last.
    """

    def __init__(
        self,
        layers: int,
        width: int,
        heads: int,
        activation: Literal["quick_gelu", "gelu"] = "quick_gelu",
        skip: int = 0,
    ):
        super().__init__()
        self.skip = skip
        self.token, self.position = nn.Embedding(END + 1, width), nn.Embedding(LENGTH, width)
        self.layers = nn.ModuleList(Layer(width, heads, activation) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token(tokens) + self.position.weight
        for layer in self.layers[: len(self.layers) - self.skip]:
            x = layer(x)
        return self.norm(x)
