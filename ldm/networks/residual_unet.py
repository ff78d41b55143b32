"""A residual U-Net that convolves and nothing else: what it says of a crop it says of the whole image, of any size.

Built as denoising networks are (DRUNet, Zhang et al. 2021; NAFNet, Chen et al. 2022): the image folded into channels, plain
3 x 3 residual blocks, no attention, and normalisation over the channels of each pixel. Group norms, which average over the
image, would make a crop, a tile and a whole image differ, and their derivative reach from every pixel to every other.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ldm import checks

FREQUENCIES = 32  # of the embedding of the noise time


def normalised(h: Tensor) -> Tensor:
    """[B,C,H,W] with mean 0 and variance 1 over the channels of each pixel; fast where channels lie last in memory."""
    return functional.layer_norm(h.permute(0, 2, 3, 1), (h.shape[1],)).permute(0, 3, 1, 2)


def waves(time: Tensor) -> Tensor:
    """[B] -> [B, 2 FREQUENCIES] cosines and sines of the noise time, from a quarter to eight turns a unit."""
    octaves = torch.linspace(-2, 3, FREQUENCIES, device=time.device)
    phase = time[:, None] * (2 * math.pi * octaves.exp2()).to(time)
    return torch.cat([phase.cos(), phase.sin()], 1)


class Block(nn.Module):
    """x + conv(silu(scale * norm(conv(silu(norm(x)))) + shift)); scale and shift come from the embedding [B,E]."""

    def __init__(self, width: int, embedding: int):
        super().__init__()
        self.conv0, self.conv1 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.affine = nn.Linear(embedding, 2 * width)
        nn.init.zeros_(self.conv1.weight)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv0(functional.silu(normalised(x)))
        scale, shift = self.affine(embedding).to(h.dtype)[:, :, None, None].chunk(2, 1)
        h = torch.addcmul(shift, normalised(h), 1 + scale)
        return x + self.conv1(functional.silu(h))


class Stage(nn.ModuleList):
    """Blocks in a row."""

    def __init__(self, blocks: int, width: int, embedding: int):
        super().__init__(Block(width, embedding) for _ in range(blocks))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        for block in self:
            x = block(x, embedding)
        return x


class ResidualUNet(nn.Module):
    """A noise-conditioned U-Net [B,channels+positions,H,W], time [B] -> [B,out,H,W], for any H and W; for ldm.denoiser.EDM.

    widths: channels per level, the finest first. blocks: per level on either side, and as many at the coarsest. unshuffle:
    the finest level sees squares of so many pixels as channels. out: channels, None: as many as come in. positions: further
    channels in (a patch's place), whose weights begin at zero, so that a network without them can be the start of one
    with them. time_scale: multiplies the time, for which 3 units are the whole range (under ldm.denoiser.VP, whose times go to
    1000, it is 0.003). Images whose sides are no multiples of `multiple` continue as their edge does, and are cut back.
    """

    any_size = True  # of images, with the same answer

    def __init__(
        self,
        channels: int = 1,
        widths: Sequence[int] = (64, 96, 128),
        blocks: int = 2,
        unshuffle: int = 2,
        out: int | None = None,
        positions: int = 0,
        time_scale: float = 1.0,
    ):
        super().__init__()
        checks.counts(channels=channels, widths=widths, blocks=blocks, unshuffle=unshuffle, out=out)
        checks.natural(positions=positions)
        checks.positive(time_scale=time_scale)
        self.channels, self.unshuffle, self.time_scale = channels, unshuffle, time_scale
        self.multiple = unshuffle * 2 ** (len(widths) - 1)
        embedding, area = 2 * widths[0], unshuffle**2
        self.enter = nn.Conv2d(channels * area, widths[0], 3, padding=1)
        self.place = (
            nn.Conv2d(positions * area, widths[0], 3, padding=1, bias=False) if positions else None
        )
        self.embed = nn.Sequential(
            nn.Linear(2 * FREQUENCIES, embedding),
            nn.SiLU(),
            nn.Linear(embedding, embedding),
            nn.SiLU(),
        )
        finer = list(zip(widths, widths[1:]))
        self.encode = nn.ModuleList(Stage(blocks, width, embedding) for width, _ in finer)
        self.down = nn.ModuleList(nn.Conv2d(width, wider, 2, stride=2) for width, wider in finer)
        self.middle = Stage(blocks, widths[-1], embedding)
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(wider, width, 2, stride=2) for width, wider in finer
        )
        self.decode = nn.ModuleList(Stage(blocks, width, embedding) for width, _ in finer)
        self.leave = nn.Conv2d(widths[0], (channels if out is None else out) * area, 3, padding=1)
        for last in (self.leave, *([self.place] if self.place else [])):
            nn.init.zeros_(last.weight)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        height, width = x.shape[2:]
        down, right = -height % self.multiple, -width % self.multiple
        if down or right:
            x = functional.pad(x, (0, right, 0, down), mode="replicate")
        embedding = self.embed(waves(self.time_scale * time))
        h, skips = self.first(x), []
        for stage, halve in zip(self.encode, self.down):
            skips.append(stage(h, embedding))
            h = halve(skips[-1])
        h = self.middle(h, embedding)
        for stage, double, skip in zip(reversed(self.decode), reversed(self.up), reversed(skips)):
            h = stage(double(h) + skip, embedding)
        h = functional.pixel_shuffle(self.leave(h), self.unshuffle)
        return h[..., :height, :width]

    def first(self, x: Tensor) -> Tensor:
        """The image and, if it has one, its place, folded into channels: the finest level's first features."""
        image, place = (
            self.folded(part) for part in (x[:, : self.channels], x[:, self.channels :])
        )
        h = self.enter(image)
        return h if self.place is None else h + self.place(place)

    def folded(self, x: Tensor) -> Tensor:
        """[B,C,H,W] -> [B,C f^2,H/f,W/f], the channels last in memory, as the norms want them."""
        return functional.pixel_unshuffle(x, self.unshuffle).contiguous(
            memory_format=torch.channels_last
        )
