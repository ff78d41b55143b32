"""MONAI's 2-D AutoencoderKL and DiffusionModelUNet from their description, with MONAI's names (old: its first release's)."""

import math

import torch
from torch import nn
from torch.nn import functional as F


class Convolution(nn.Module):
    def __init__(self, a, b, kernel=3, stride=1, padding=1):
        super().__init__()
        self.conv = nn.Conv2d(a, b, kernel, stride, padding)

    def forward(self, x):
        return self.conv(x)


class Attention(nn.Module):
    def __init__(self, c, heads, groups, eps, old):
        super().__init__()
        self.heads, self.norm = heads, nn.GroupNorm(groups, c, eps)
        home = self if old else nn.Module()
        home.to_q, home.to_k, home.to_v = (nn.Linear(c, c) for _ in range(3))
        setattr(home, "proj_attn" if old else "out_proj", nn.Linear(c, c))
        if not old:
            self.attn = home

    def forward(self, x):
        home = getattr(self, "attn", self)
        h = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = (m(h).chunk(self.heads, -1) for m in (home.to_q, home.to_k, home.to_v))
        parts = [
            torch.softmax(a @ b.transpose(1, 2) / math.sqrt(a.shape[-1]), -1) @ c
            for a, b, c in zip(q, k, v)
        ]
        out = home.proj_attn if hasattr(home, "proj_attn") else home.out_proj
        return x + out(torch.cat(parts, -1)).transpose(1, 2).reshape(x.shape)


class Residual(nn.Module):
    def __init__(self, a, b, groups, eps, emb=None):
        super().__init__()
        self.norm1, self.conv1, self.norm2, self.conv2 = (
            nn.GroupNorm(groups, a, eps),
            Convolution(a, b),
            nn.GroupNorm(groups, b, eps),
            Convolution(b, b),
        )
        name = "nin_shortcut" if emb is None else "skip_connection"
        setattr(self, name, Convolution(a, b, 1, 1, 0) if a != b else nn.Identity())
        self.short = [getattr(self, name)]
        if emb is not None:
            self.time_emb_proj = nn.Linear(emb, b)

    def forward(self, x, emb=None):
        h = self.conv1(F.silu(self.norm1(x)))
        h = h if emb is None else h + self.time_emb_proj(F.silu(emb))[:, :, None, None]
        return self.short[0](x) + self.conv2(F.silu(self.norm2(h)))


class Down(nn.Module):
    def __init__(self, c, name="conv", pad=True):
        super().__init__()
        self.pad, self.name = pad, name
        setattr(self, name, Convolution(c, c, 3, 2, 0 if pad else 1))

    def forward(self, x, emb=None):
        return getattr(self, self.name)(F.pad(x, (0, 1, 0, 1)) if self.pad else x)


class Up(nn.Module):
    def __init__(self, c, old):
        super().__init__()
        self.name = "conv" if old else "postconv"
        setattr(self, self.name, Convolution(c, c))

    def forward(self, x, emb=None):
        return getattr(self, self.name)(x.repeat_interleave(2, 2).repeat_interleave(2, 3))


class Half(nn.Module):
    def __init__(self, blocks):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


class AutoencoderKL(nn.Module):
    def __init__(
        self, channels, latent, widths, blocks, attends, middle=True, groups=32, eps=1e-6, old=False
    ):
        super().__init__()

        def level(i, a):
            rows = []
            for _ in range(blocks):
                rows += [Residual(a, widths[i], groups, eps)] + (
                    [Attention(widths[i], 1, groups, eps, old)] if attends[i] else []
                )
                a = widths[i]
            return rows

        w = widths[-1]

        def centre():
            return (
                [
                    Residual(w, w, groups, eps),
                    Attention(w, 1, groups, eps, old),
                    Residual(w, w, groups, eps),
                ]
                if middle
                else []
            )

        down, a = [Convolution(channels, widths[0])], widths[0]
        for i, b in enumerate(widths):
            down += level(i, a) + ([Down(b)] if i < len(widths) - 1 else [])
            a = b
        up = [Convolution(latent, w), *centre()]
        for i, b in reversed(list(enumerate(widths))):
            up += level(i, a) + ([Up(b, old)] if i else [])
            a = b
        self.encoder = Half(
            [*down, *centre(), nn.GroupNorm(groups, w, eps), Convolution(w, latent)]
        )
        self.decoder = Half([*up, nn.GroupNorm(groups, a, eps), Convolution(a, channels)])
        self.quant_conv_mu, self.quant_conv_log_sigma, self.post_quant_conv = (
            Convolution(latent, latent, 1, 1, 0) for _ in range(3)
        )

    def encode(self, x):
        return self.quant_conv_mu(self.encoder(x))

    def decode(self, z):
        return self.decoder(self.post_quant_conv(z))


class DiffusionModelUNet(nn.Module):
    def __init__(self, channels, widths, blocks, attends, head, groups=32, eps=1e-6, old=False):
        super().__init__()
        self.width, emb = widths[0], 4 * widths[0]
        self.conv_in, self.time_embed = (
            Convolution(channels, widths[0]),
            nn.Sequential(nn.Linear(widths[0], emb), nn.SiLU(), nn.Linear(emb, emb)),
        )

        def attention(c):
            return Attention(c, c // head, groups, eps, old)

        self.down_blocks, self.up_blocks, skips, a = (
            nn.ModuleList(),
            nn.ModuleList(),
            [widths[0]],
            widths[0],
        )
        for i, b in enumerate(widths):
            row = nn.Module()
            row.resnets, row.attentions = nn.ModuleList(), nn.ModuleList()
            for _ in range(blocks):
                row.resnets.append(Residual(a, b, groups, eps, emb))
                row.attentions.extend([attention(b)] if attends[i] else [])
                skips.append(a := b)
            row.downsampler = Down(b, "op", pad=False) if i < len(widths) - 1 else None
            skips += [b] if row.downsampler else []
            self.down_blocks.append(row)
        self.middle_block = nn.Module()
        self.middle_block.resnet_1, self.middle_block.attention, self.middle_block.resnet_2 = (
            Residual(a, a, groups, eps, emb),
            attention(a),
            Residual(a, a, groups, eps, emb),
        )
        for i, b in reversed(list(enumerate(widths))):
            row = nn.Module()
            row.resnets, row.attentions = nn.ModuleList(), nn.ModuleList()
            for _ in range(blocks + 1):
                row.resnets.append(Residual(a + skips.pop(), b, groups, eps, emb))
                row.attentions.extend([attention(b)] if attends[i] else [])
                a = b
            row.upsampler = Up(b, old) if i else None
            self.up_blocks.append(row)
        self.out = nn.Sequential(nn.GroupNorm(groups, a, eps), nn.SiLU(), Convolution(a, channels))

    def forward(self, x, t):
        half = self.width // 2
        phase = t[:, None].float() * torch.exp(-math.log(10000) * torch.arange(half) / half)
        emb = self.time_embed(torch.cat([phase.cos(), phase.sin()], 1))
        skips = [x := self.conv_in(x)]
        for row in self.down_blocks:
            for i, block in enumerate(row.resnets):
                x = block(x, emb)
                x = row.attentions[i](x) if len(row.attentions) else x
                skips.append(x)
            if row.downsampler:
                skips.append(x := row.downsampler(x))
        x = self.middle_block.resnet_2(
            self.middle_block.attention(self.middle_block.resnet_1(x, emb)), emb
        )
        for row in self.up_blocks:
            for i, block in enumerate(row.resnets):
                x = block(torch.cat([x, skips.pop()], 1), emb)
                x = row.attentions[i](x) if len(row.attentions) else x
            x = row.upsampler(x) if row.upsampler else x
        return self.out(x)
