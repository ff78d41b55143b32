"""The EDM family of networks, which diffusers lacks: DDPM++ and NCSN++ (SongUNet), ADM (DhariwalUNet).

Architectures: Song et al. 2021 (arXiv 2011.13456, appendix H), Dhariwal & Nichol 2021, in the form of Karras et al. 2022,
appendix F. Called as network(x, c_noise) or network(x, c_noise, label), the convention of ldm.denoiser.EDM. Published sizes:

    EDM CIFAR-10 DDPM++   SongUNet(3, multipliers=(2, 2, 2), attention=(1,))          55.73 M
    EDM FFHQ-64 DDPM++    SongUNet(3, multipliers=(1, 2, 2, 2), attention=(2,))       61.80 M
    EDM ImageNet-64 ADM   DhariwalUNet(3, attention=(1, 2, 3), classes=1000)          295.9 M
    PaDIS patch net       SongUNet(3, 1, multipliers=(1, 2, 2, 2), attention=())      60.48 M

Levels count from 0, the finest. Attention is chosen by level; the published code chose it by the name of a resolution, so that
nets built for padded images (304, 384) have it in the bottleneck only: attention=().
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn import init as initial
from torch.utils.checkpoint import checkpoint

from data.files import Refusal
from ldm import checks
from ldm.networks.edm_blocks import RESAMPLE, Block, FilteredConv, initialise, norm, sinusoids


class EDMNet(nn.Module):
    """What the family shares: encoder, decoder, class labels, the walk between them. Subclasses add the time embedding.

    encoder and decoder run in order; names are `{level}_conv`, `{level}_down`, `{level}_residual`, `{level}_block{i}` and
    `{level}_in0`, `{level}_in1`, `{level}_up`, `{level}_block{i}`.
    make: Block with the family's settings, given (into, out, direction, heads). first: channels after the first convolution.
    heads: attention heads of a width; every_block: decoder levels attend in each block, not only in the last.
    residual: each halving also adds the halved input (NCSN++).
    """

    def __init__(
        self,
        channels: int,
        out: int,
        widths: Sequence[int],
        blocks: int,
        attention: Sequence[int],
        make: Callable[..., Block],
        first: int,
        heads: Callable[[int], int],
        every_block: bool,
        residual: bool,
        eps: float,
        classes: int,
        checkpointing: bool,
    ):
        super().__init__()
        checks.counts(
            channels=channels, out=out, widths=widths, blocks=blocks, classes=classes or None
        )
        last, attend = len(widths) - 1, set(attention)
        if not attend <= set(range(len(widths))):
            raise Refusal(f"attention levels {list(attention)} must lie in 0..{last}")
        self.multiple, self.classes, self.checkpointing = 2**last, classes, checkpointing
        self.encoder = nn.ModuleDict({"0_conv": nn.Conv2d(channels, first, 3, padding=1)})
        skips, side = [first], channels
        for level, width in enumerate(widths):
            if level > 0:
                self.encoder[f"{level}_down"] = make(skips[-1], skips[-1], "down")
                if residual:
                    self.encoder[f"{level}_residual"] = FilteredConv(side, skips[-1], 3)
                skips.append(side := skips[-1])
            here = heads(width) if level in attend else 0
            for i in range(blocks):
                self.encoder[f"{level}_block{i}"] = make(skips[-1], width, heads=here)
                skips.append(width)
        x = widths[last]
        inner = {f"{last}_in0": make(x, x, heads=heads(x)), f"{last}_in1": make(x, x)}
        self.decoder = nn.ModuleDict(inner)
        for level, width in reversed(list(enumerate(widths))):
            if level < last:
                self.decoder[f"{level}_up"] = make(x, x, "up")
            for i in range(blocks + 1):
                attends = level in attend and (every_block or i == blocks)
                here = heads(width) if attends else 0
                self.decoder[f"{level}_block{i}"] = make(x + skips.pop(), width, heads=here)
                x = width
        self.out_norm, self.out_conv = norm(x, eps), nn.Conv2d(x, out, 3, padding=1)

    def embed(self, time: Tensor, label: Tensor | None) -> Tensor:
        """c_noise [B], class [B] -> what every block is given [B, embedding]."""
        raise NotImplementedError

    def one_hot(self, label: Tensor | None, like: Tensor) -> Tensor:
        """[B, classes]; no label is the zero vector, the family's unconditional code."""
        if label is None:
            return like.new_zeros(len(like), self.classes)
        if label.min() < 0 or label.max() >= self.classes:
            raise Refusal(f"class labels must lie in 0..{self.classes - 1}")
        return functional.one_hot(label, self.classes).to(like)

    def forward(self, x: Tensor, time: Tensor, label: Tensor | None = None) -> Tensor:
        """x [B,in,H,W] with H, W multiples of 2^(levels-1), time = c_noise [B], label [B] -> [B,out,H,W]."""
        if x.shape[-1] % self.multiple or x.shape[-2] % self.multiple:
            raise Refusal(
                f"height and width must be multiples of {self.multiple}, got {tuple(x.shape[-2:])}"
            )
        skips: list[Tensor] = []
        e, side = self.embed(time, label), x
        for module in self.encoder.values():
            if isinstance(module, FilteredConv):
                side = x = skips[-1] = (x + module(side)) * math.sqrt(0.5)
            else:
                x = self.run(module, x, e) if isinstance(module, Block) else module(x)
                skips.append(x)
        for module in self.decoder.values():
            if x.shape[1] != module.into:
                x = torch.cat([x, skips.pop()], 1)
            x = self.run(module, x, e)
        return self.out_conv(functional.silu(self.out_norm(x)))

    def run(self, block: nn.Module, x: Tensor, e: Tensor) -> Tensor:
        """A block; with checkpointing its activations are recomputed in the backward pass."""
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(block, x, e, use_reentrant=False)
        return block(x, e)


class SongUNet(EDMNet):
    """DDPM++ (sinusoidal time, box resampling) or NCSN++ (random Fourier features of time, smooth resampling, residual encoder).

    channels, out: of the image; position channels of a patch net count in `channels` only. attention: levels that attend.
    embedding: channels of what every block is told of time and class, in widths.
    """

    def __init__(
        self,
        channels: int,
        out: int | None = None,
        kind: Literal["ddpm++", "ncsn++"] = "ddpm++",
        width: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 4,
        attention: Sequence[int] = (),
        classes: int = 0,
        dropout: float = 0.0,
        checkpointing: bool = False,
        embedding: int = 4,
    ):
        ncsn, wide = kind == "ncsn++", embedding * width
        make = partial(
            Block,
            embedding=wide,
            taps=RESAMPLE["smooth" if ncsn else "box"],
            damping=math.sqrt(0.5),
            eps=1e-6,
            dropout=dropout,
        )
        super().__init__(
            channels,
            channels if out is None else out,
            [width * m for m in multipliers],
            blocks,
            attention,
            make,
            first=width,
            heads=lambda _: 1,
            every_block=False,
            residual=ncsn,
            eps=1e-6,
            classes=classes,
            checkpointing=checkpointing,
        )
        self.time_width = time = 2 * width if ncsn else width
        if ncsn:
            self.register_buffer("frequencies", torch.empty(width).normal_(0, 16))
        self.map_time0, self.map_time1 = nn.Linear(time, wide), nn.Linear(wide, wide)
        self.map_label = nn.Linear(classes, time) if classes else None
        initialise(self, initial.xavier_uniform_, 1.0, small=1e-5, qkv=math.sqrt(0.2))

    def embed(self, time: Tensor, label: Tensor | None) -> Tensor:
        if isinstance(frequencies := getattr(self, "frequencies", None), Tensor):
            phase = time[:, None] * (2 * math.pi * frequencies)
        else:
            half = self.time_width // 2
            phase = time[:, None] * sinusoids(half, half - 1, time)
        e = torch.cat([phase.sin(), phase.cos()], 1)
        if self.map_label is not None:
            e = e + self.map_label(self.one_hot(label, e) * math.sqrt(self.classes))
        return functional.silu(self.map_time1(functional.silu(self.map_time0(e))))


class DhariwalUNet(EDMNet):
    """ADM: scale-shift norms, resampling without weights, 64-channel heads in every block of the levels that attend.

    embedding: channels of what every block is told of time and class, in widths.
    """

    def __init__(
        self,
        channels: int,
        out: int | None = None,
        width: int = 192,
        multipliers: Sequence[int] = (1, 2, 3, 4),
        blocks: int = 3,
        attention: Sequence[int] = (1, 2, 3),
        head: int = 64,
        classes: int = 0,
        dropout: float = 0.0,
        checkpointing: bool = False,
        embedding: int = 4,
    ):
        checks.counts(head=head, embedding=embedding)
        widths, wide = [width * m for m in multipliers], embedding * width
        narrowest = min((w for i, w in enumerate(widths) if i in attention), default=head)
        if narrowest < head:
            raise Refusal(
                f"head {head} is more than the {narrowest} channels of a level that attends; lower head, or widen it"
            )
        make = partial(Block, embedding=wide, scale_shift=True, project=False, dropout=dropout)
        super().__init__(
            channels,
            channels if out is None else out,
            widths,
            blocks,
            attention,
            make,
            first=next(iter(widths), 0),
            heads=lambda c: c // head,
            every_block=True,
            residual=False,
            eps=1e-5,
            classes=classes,
            checkpointing=checkpointing,
        )
        self.time_width = width
        self.map_time0, self.map_time1 = nn.Linear(width, wide), nn.Linear(wide, wide)
        self.map_label = nn.Linear(classes, wide, bias=False) if classes else None
        initialise(self, initial.kaiming_uniform_, math.sqrt(1 / 3), small=0.0)
        if self.map_label is not None:
            initial.normal_(self.map_label.weight)  # unit variance after one_hot

    def embed(self, time: Tensor, label: Tensor | None) -> Tensor:
        half = self.time_width // 2
        phase = time[:, None] * sinusoids(half, half, time)
        e = self.map_time0(torch.cat([phase.cos(), phase.sin()], 1))
        e = self.map_time1(functional.silu(e))
        if self.map_label is not None:
            e = e + self.map_label(self.one_hot(label, e))
        return functional.silu(e)
