"""A VQ autoencoder of the residual U-Net's blocks: what it says of a crop it says of the whole image, of any size."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ldm import checks
from ldm.networks.residual_unet import normalised
from ldm.networks.unet import VQModel

LAST = torch.channels_last


class Block(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))); the identity when training begins."""

    def __init__(self, width: int):
        super().__init__()
        self.conv0, self.conv1 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        nn.init.zeros_(self.conv1.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv0(functional.silu(normalised(x)))
        return x + self.conv1(functional.silu(normalised(h)))


class Encoder(nn.Module):
    """[B,channels,H,W] -> [B,latent,H/f,W/f]; the channels lie last in memory, as the norms want them."""

    def __init__(self, channels: int, widths: Sequence[int], blocks: int, latent: int):
        super().__init__()
        self.conv_in = nn.Conv2d(4 * channels, widths[0], 3, padding=1)
        stages: list[nn.Module] = [Block(widths[0]) for _ in range(blocks)]
        for width, wider in zip(widths, widths[1:]):
            stages.append(nn.Conv2d(width, wider, 2, stride=2))
            stages += [Block(wider) for _ in range(blocks)]
        self.stages = nn.Sequential(*stages)
        self.conv_out = nn.Conv2d(widths[-1], latent, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        h = functional.pixel_unshuffle(image, 2)
        return self.conv_out(self.stages(self.conv_in(h.contiguous(memory_format=LAST))))


class Decoder(nn.Module):
    """[B,latent,h,w] -> [B,channels,f h,f w]: the encoder backwards. diffusers hands on an argument that only others read."""

    def __init__(self, channels: int, widths: Sequence[int], blocks: int, latent: int):
        super().__init__()
        self.conv_in = nn.Conv2d(latent, widths[-1], 3, padding=1)
        stages: list[nn.Module] = [Block(widths[-1]) for _ in range(blocks)]
        for wider, width in zip(widths[:0:-1], widths[-2::-1]):
            stages.append(nn.ConvTranspose2d(wider, width, 2, stride=2))
            stages += [Block(width) for _ in range(blocks)]
        self.stages = nn.Sequential(*stages)
        self.conv_out = nn.Conv2d(widths[0], 4 * channels, 3, padding=1)

    def forward(self, z: Tensor, quantised: None = None) -> Tensor:
        h = self.stages(self.conv_in(z.contiguous(memory_format=LAST)))
        return functional.pixel_shuffle(self.conv_out(h), 2)


class ResidualVQ(VQModel):
    """Images [B,channels,H,W] <-> latents [B,latent,H/f,W/f], f = 2^len(widths); for ldm.latent.VQ.

    The finest level sees squares of two pixels as channels. widths: channels per level, the finest first. blocks: per level
    on either side. codes: of the codebook. The codebook and its 1 x 1 convolutions are diffusers'.
    """

    def __init__(
        self,
        channels: int = 1,
        widths: Sequence[int] = (64, 128),
        blocks: int = 2,
        latent: int = 3,
        codes: int = 8192,
    ):
        checks.counts(widths=widths, blocks=blocks)
        least = (1,) * (len(widths) + 1)  # of what is replaced here; diffusers counts f by them
        super().__init__(channels, least, 1, latent, codes, attention=False, groups=1)
        self.encoder = Encoder(channels, widths, blocks, latent)
        self.decoder = Decoder(channels, widths, blocks, latent)
