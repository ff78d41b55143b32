"""MONAI's AutoencoderKL in two dimensions, which differs from diffusers' in three ways: no activation before the last
convolution of encoder and decoder, as many blocks a level in the decoder as in the encoder, and separate mean and deviation.

Modules are numbered as MONAI numbers them, so that its weights need no map.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from data.ranges import from_unit, to_unit


class Block(nn.Module):
    def __init__(self, into: int, out: int, groups: int, eps: float):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, into, eps), nn.Conv2d(into, out, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(groups, out, eps), nn.Conv2d(out, out, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(into, out, 1) if into != out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(functional.silu(self.norm1(x)))
        return self.nin_shortcut(x) + self.conv2(functional.silu(self.norm2(h)))


class Attention(nn.Module):
    """Self-attention over pixels, one head."""

    def __init__(self, width: int, groups: int, eps: float):
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, eps)
        self.to_q, self.to_k, self.to_v, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x).flatten(2).transpose(1, 2)
        h = functional.scaled_dot_product_attention(self.to_q(h), self.to_k(h), self.to_v(h))
        return x + self.out(h).transpose(1, 2).reshape(x.shape)


class Down(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(functional.pad(x, (0, 1, 0, 1)))


class Up(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(functional.interpolate(x, scale_factor=2.0, mode="nearest"))


class AutoencoderKL(nn.Module):
    """Images [B,channels,H,W] <-> latents [B,latent,H/f,W/f]; the latent is the posterior's mean. A first stage itself.

    widths, blocks, attention: per level. middle: attention at the lowest resolution of encoder and decoder.
    unit_range: its own images lie in [0, 1], as those of MONAI's bundles do; those given and answered here lie in [-1, 1].
    """

    def __init__(
        self,
        channels: int,
        latent: int,
        widths: Sequence[int],
        blocks: Sequence[int],
        attention: Sequence[bool],
        middle: tuple[bool, bool] = (True, True),
        groups: int = 32,
        eps: float = 1e-6,
        unit_range: bool = False,
    ):
        super().__init__()
        self.unit_range = unit_range
        self.factor, last = 2 ** (len(widths) - 1), len(widths) - 1

        def level(i: int, into: int) -> list[nn.Module]:
            found: list[nn.Module] = []
            for _ in range(blocks[i]):
                found += [Block(into, widths[i], groups, eps)] + (
                    [Attention(widths[i], groups, eps)] if attention[i] else []
                )
                into = widths[i]
            return found

        def centre(wanted: bool) -> list[nn.Module]:
            w = widths[last]
            return (
                [Block(w, w, groups, eps), Attention(w, groups, eps), Block(w, w, groups, eps)]
                if wanted
                else []
            )

        down: list[nn.Module] = [nn.Conv2d(channels, widths[0], 3, padding=1)]
        up: list[nn.Module] = [nn.Conv2d(latent, widths[last], 3, padding=1), *centre(middle[1])]
        for i in range(len(widths)):
            down += level(i, widths[max(i - 1, 0)]) + (
                [Down(widths[i], widths[i], 3, stride=2)] if i < last else []
            )
        for i in reversed(range(len(widths))):
            up += level(i, widths[min(i + 1, last)]) + (
                [Up(widths[i], widths[i], 3, padding=1)] if i > 0 else []
            )
        down += [
            *centre(middle[0]),
            nn.GroupNorm(groups, widths[last], eps),
            nn.Conv2d(widths[last], latent, 3, padding=1),
        ]
        up += [nn.GroupNorm(groups, widths[0], eps), nn.Conv2d(widths[0], channels, 3, padding=1)]
        self.encoder, self.decoder = nn.Sequential(*down), nn.Sequential(*up)
        self.quant_conv_mu, self.quant_conv_log_sigma = (
            nn.Conv2d(latent, latent, 1),
            nn.Conv2d(latent, latent, 1),
        )
        self.post_quant_conv = nn.Conv2d(latent, latent, 1)

    def encode(self, image: Tensor) -> Tensor:
        return self.posterior(image)[0]

    def posterior(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latent."""
        h = self.encoder(to_unit(image) if self.unit_range else image)
        return self.quant_conv_mu(h), self.quant_conv_log_sigma(h).clamp(-30, 20)

    def decode(self, z: Tensor, quantize: bool = True) -> Tensor:
        """quantize: for first stages that can; a KL model has nothing to quantise."""
        image = self.decoder(self.post_quant_conv(z))
        return from_unit(image) if self.unit_range else image
