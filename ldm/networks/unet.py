"""Networks from diffusers, described by short specs: widths per level, blocks per level, which levels attend.

The classes only spell out diffusers' block lists, so their weights have diffusers' names. Published sizes:

    FFHQ/CelebA ldm-vq-4 U-Net   UNet(3, (224, 448, 672, 896), attention=(1, 2, 3), head=32)      274,056,163
    VQ-f4                        VQModel(3, (128, 256, 512), codes=8192)                            55,322,782
    KL-f8                        KLModel(3, (128, 256, 512, 512), latent=4)                         83,653,863
"""

from collections.abc import Sequence
from typing import Any

import diffusers
from torch import Tensor

from data.files import Refusal
from ldm import checks


class UNet(diffusers.UNet2DModel):
    """A noise-conditioned U-Net [B,channels,H,W], time [B] (, label [B]) -> [B,out,H,W]; H, W multiples of 2^(levels-1).

    widths: channels per level, multiples of 32. attention: levels (0 is the finest) whose blocks attend; the middle
    block attends if the last level does. head: channels per attention head. time_scale: multiplies the time fed in;
    the sinusoids are made for times up to 1000, so networks under ldm.denoiser.EDM, whose c_noise = ln(sigma)/4 spans
    about 3, take 100 (the bandwidth of NCSN++'s random Fourier features). groups: of the group norms, which must divide
    every width; four channels or more in each, as in EDM, or contrast is lost: widths that begin with 32 want 8.
    """

    def __init__(
        self,
        channels: int,
        widths: Sequence[int],
        blocks: int = 2,
        attention: Sequence[int] = (),
        head: int = 32,
        out: int | None = None,
        classes: int | None = None,
        dropout: float = 0.0,
        time_scale: float = 1.0,
        checkpointing: bool = False,
        groups: int = 32,
    ):
        checks.counts(
            channels=channels,
            widths=widths,
            blocks=blocks,
            head=head,
            out=out,
            classes=classes,
            groups=groups,
        )
        levels = range(len(widths))
        if any(level not in levels for level in attention):
            raise Refusal(f"attention levels {list(attention)} must lie in 0..{len(widths) - 1}")
        if narrow := [widths[level] for level in attention if widths[level] < head]:
            raise Refusal(
                f"head {head} is more than the {min(narrow)} channels of a level that attends; lower head, or widen it"
            )
        super().__init__(
            in_channels=channels,
            out_channels=channels if out is None else out,
            block_out_channels=tuple(widths),
            layers_per_block=blocks,
            down_block_types=tuple(
                "AttnDownBlock2D" if i in attention else "DownBlock2D" for i in levels
            ),
            up_block_types=tuple(
                "AttnUpBlock2D" if i in attention else "UpBlock2D" for i in reversed(levels)
            ),
            add_attention=len(widths) - 1 in attention,
            attention_head_dim=head,
            num_class_embeds=classes,
            dropout=dropout,
            norm_num_groups=groups,
        )
        self.time_scale = time_scale
        if checkpointing:
            self.enable_gradient_checkpointing()  # type: ignore[attr-defined]

    def forward(self, x: Tensor, time: Tensor, label: Tensor | None = None) -> Tensor:  # type: ignore[override]
        return super().forward(x, time * self.time_scale, label).sample  # type: ignore[misc]


class VQModel(diffusers.VQModel):
    """The VQ autoencoder of latent diffusion: images [B,channels,H,W] <-> latents [B,latent,H/f,W/f], f = 2^(levels-1).

    attention=False leaves out the middle attention, so that tiled decoding is exact and forward derivatives exist under
    every kernel; the published VQ-f4 has it. groups: of the group norms; they must divide every width, and a narrow
    network wants few: with one channel in a group, what a crop is normalised by is not what its whole image is.
    """

    def __init__(
        self,
        channels: int = 3,
        widths: Sequence[int] = (128, 256, 512),
        blocks: int = 2,
        latent: int = 3,
        codes: int = 8192,
        attention: bool = True,
        groups: int = 32,
    ):
        checks.counts(codes=codes)
        super().__init__(
            **autoencoder(channels, widths, blocks, latent, attention, groups),
            num_vq_embeddings=codes,
        )


class KLModel(diffusers.AutoencoderKL):
    """The KL autoencoder of latent diffusion; arguments as VQModel's."""

    def __init__(
        self,
        channels: int = 3,
        widths: Sequence[int] = (128, 256, 512, 512),
        blocks: int = 2,
        latent: int = 4,
        attention: bool = True,
        groups: int = 32,
    ):
        super().__init__(**autoencoder(channels, widths, blocks, latent, attention, groups))


def autoencoder(
    channels: int, widths: Sequence[int], blocks: int, latent: int, attention: bool, groups: int
) -> dict[str, Any]:
    """What diffusers is told of either autoencoder."""
    checks.counts(channels=channels, widths=widths, blocks=blocks, latent=latent, groups=groups)
    return dict(
        in_channels=channels,
        out_channels=channels,
        block_out_channels=tuple(widths),
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        layers_per_block=blocks,
        latent_channels=latent,
        norm_num_groups=groups,
        mid_block_add_attention=attention,
        scaling_factor=1.0,  # diffusers' default is Stable Diffusion's; the scale lives in LatentPrior
    )
