"""Parts of the EDM networks: residual blocks with attention, resampling filters, sinusoids, initial weights."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

RESAMPLE = {"box": (1.0, 1.0), "smooth": (1.0, 3.0, 3.0, 1.0)}


def norm(channels: int, eps: float) -> nn.GroupNorm:
    """At most 32 groups of at least 4 channels."""
    return nn.GroupNorm(min(32, channels // 4), channels, eps)


def resample(
    x: Tensor, taps: Sequence[float], direction: Literal["up", "down"], padding: int | None = None
) -> Tensor:
    """Twice or half the size per axis with a separable filter of the given taps, normalised to unit gain."""
    if len(taps) == 2:  # the box filter: nearest neighbour up, mean of four down
        return (
            functional.interpolate(x, scale_factor=2, mode="nearest")
            if direction == "up"
            else functional.avg_pool2d(x, 2)
        )
    f = torch.tensor(taps, dtype=x.dtype, device=x.device)
    kernel = (f[:, None] * f / f.sum() ** 2).expand(x.shape[1], 1, -1, -1)
    pad = (len(taps) - 1) // 2 if padding is None else padding
    if direction == "up":
        return functional.conv_transpose2d(x, 4 * kernel, stride=2, padding=pad, groups=x.shape[1])
    return functional.conv2d(x, kernel, stride=2, padding=pad, groups=x.shape[1])


class Block(nn.Module):
    """Residual block with noise embedding, optional resampling and attention (EDM figure of appendix F).

    scale_shift: the embedding scales and shifts the second norm (ADM); otherwise it is added before it (DDPM++).
    project: resampling blocks have a 1x1 convolution in the skip. damping: factor after each residual sum.
    """

    def __init__(
        self,
        into: int,
        out: int,
        direction: Literal["up", "down"] | None = None,
        heads: int = 0,
        *,
        embedding: int,
        taps: Sequence[float] = RESAMPLE["box"],
        scale_shift: bool = False,
        project: bool = True,
        damping: float = 1.0,
        eps: float = 1e-5,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.into, self.out, self.direction, self.heads, self.taps = (
            into,
            out,
            direction,
            heads,
            taps,
        )
        self.scale_shift, self.damping, self.dropout = scale_shift, damping, dropout
        self.norm0, self.norm1 = norm(into, eps), norm(out, eps)
        self.conv0, self.conv1 = (
            nn.Conv2d(into, out, 3, padding=1),
            nn.Conv2d(out, out, 3, padding=1),
        )
        self.affine = nn.Linear(embedding, 2 * out if scale_shift else out)
        self.skip = nn.Conv2d(into, out, 1) if into != out or (direction and project) else None
        if heads:
            self.norm2, self.qkv, self.proj = (
                norm(out, eps),
                nn.Conv2d(out, 3 * out, 1),
                nn.Conv2d(out, out, 1),
            )

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h, passed = functional.silu(self.norm0(x)), x
        if self.direction:
            h, passed = (resample(y, self.taps, self.direction) for y in (h, x))  # type: ignore[arg-type]
        h = self.conv0(h)
        e = self.affine(embedding)[:, :, None, None]
        if self.scale_shift:
            scale, shift = e.chunk(2, 1)
            h = functional.silu(self.norm1(h) * (1 + scale) + shift)
        else:
            h = functional.silu(self.norm1(h + e))
        h = self.conv1(functional.dropout(h, self.dropout, self.training))
        x = (h + (passed if self.skip is None else self.skip(passed))) * self.damping
        return (x + self.attend(x)) * self.damping if self.heads else x

    def attend(self, x: Tensor) -> Tensor:
        """Self-attention over pixels; the channels of qkv are ordered (head, channel, q|k|v)."""
        b, c, height, width = x.shape
        qkv = self.qkv(self.norm2(x)).reshape(b, self.heads, c // self.heads, 3, height * width)
        q, k, v = qkv.transpose(2, 4).unbind(3)  # [B, heads, pixels, channels of a head]
        h = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(h.transpose(2, 3).reshape(x.shape))


class FilteredConv(nn.Conv2d):
    """3x3 convolution then smooth halving, fused as NCSN++ has it: the convolution also runs over one more ring of zeros."""

    def forward(self, x: Tensor) -> Tensor:
        h = functional.conv2d(x, self.weight, padding=2)
        return resample(h, RESAMPLE["smooth"], "down", padding=0) + self.bias[:, None, None]  # type: ignore[index]


def sinusoids(n: int, span: int, like: Tensor) -> Tensor:
    """n frequencies 10000^(-i/span), i = 0..n-1."""
    return 10000 ** (-torch.arange(n, dtype=like.dtype, device=like.device) / span)


def initialise(
    net: nn.Module, scheme: Callable[[Tensor], Tensor], gain: float, small: float, qkv: float = 1.0
) -> None:
    """Weights by `scheme` times `gain`, biases zero; the last layer of each residual and of the net starts (nearly) at zero."""
    for name, module in net.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            scheme(module.weight)
            leaf = name.rpartition(".")[2]
            factor = (
                small if leaf in ("conv1", "proj", "out_conv") else qkv if leaf == "qkv" else gain
            )
            with torch.no_grad():
                module.weight.mul_(factor)
                if module.bias is not None:
                    module.bias.zero_()
