"""The VQ and KL autoencoders of taming-transformers and latent diffusion, from their description, with the published names."""

import math

import torch
from torch import nn
from torch.nn import functional as F


def norm(channels):
    return nn.GroupNorm(32, channels, 1e-6)


class Block(nn.Module):
    def __init__(self, into, out):
        super().__init__()
        self.norm1, self.conv1 = norm(into), nn.Conv2d(into, out, 3, padding=1)
        self.norm2, self.conv2 = norm(out), nn.Conv2d(out, out, 3, padding=1)
        if into != out:
            self.nin_shortcut = nn.Conv2d(into, out, 1)

    def forward(self, x):
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x) + h


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.norm = norm(c)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(c, c, 1) for _ in range(4))

    def forward(self, x):
        h = self.norm(x)
        q, k, v = (m(h).flatten(2) for m in (self.q, self.k, self.v))
        weight = torch.softmax(torch.einsum("bcq,bck->bqk", q, k) / math.sqrt(x.shape[1]), -1)
        return x + self.proj_out(torch.einsum("bqk,bck->bcq", weight, v).reshape(x.shape))


class Sample(nn.Module):
    def __init__(self, c, way):
        super().__init__()
        self.way = way
        self.conv = nn.Conv2d(c, c, 3, stride=2) if way == "down" else nn.Conv2d(c, c, 3, padding=1)

    def forward(self, x):
        if self.way == "down":
            return self.conv(F.pad(x, (0, 1, 0, 1)))
        return self.conv(x.repeat_interleave(2, 2).repeat_interleave(2, 3))


class Half(nn.Module):
    """Encoder or decoder."""

    def __init__(self, way, into, out, ch, mult, blocks, attends, middle=True):
        super().__init__()
        self.way, last = way, len(mult) - 1
        widths = [ch * m for m in mult]
        c = ch if way == "down" else widths[-1]
        self.conv_in = nn.Conv2d(into, c, 3, padding=1)
        rows = [None] * len(mult)
        mid = nn.Module()
        mid.block_1, mid.block_2 = Block(widths[-1], widths[-1]), Block(widths[-1], widths[-1])
        if middle:
            mid.attn_1 = Attention(widths[-1])
        for level in range(last + 1) if way == "down" else reversed(range(last + 1)):
            row = nn.Module()
            row.block, row.attn = nn.ModuleList(), nn.ModuleList()
            for _ in range(blocks + (way == "up")):
                row.block.append(Block(c, widths[level]))
                c = widths[level]
                if level in attends:
                    row.attn.append(Attention(c))
            if level != (last if way == "down" else 0):
                setattr(row, f"{way}sample", Sample(c, way))
            rows[level] = row
        setattr(self, way, nn.ModuleList(rows))
        self.mid, self.norm_out, self.conv_out = mid, norm(c), nn.Conv2d(c, out, 3, padding=1)

    def middle(self, x):
        x = self.mid.block_1(x)
        x = self.mid.attn_1(x) if hasattr(self.mid, "attn_1") else x
        return self.mid.block_2(x)

    def forward(self, x):
        x = self.conv_in(x)
        x = self.middle(x) if self.way == "up" else x
        rows = list(getattr(self, self.way))
        for row in rows if self.way == "down" else reversed(rows):
            for i, block in enumerate(row.block):
                x = block(x)
                x = row.attn[i](x) if len(row.attn) else x
            x = getattr(row, f"{self.way}sample")(x) if hasattr(row, f"{self.way}sample") else x
        x = self.middle(x) if self.way == "down" else x
        return self.conv_out(F.silu(self.norm_out(x)))


class Autoencoder(nn.Module):
    """codes: a VQ model with so many; None: a KL model, whose latent is the mean."""

    def __init__(
        self, ch=128, mult=(1, 2, 4), blocks=2, z=3, embed=3, codes=8192, attends=(), middle=True
    ):
        super().__init__()
        self.codes = codes
        self.encoder = Half("down", 3, z if codes else 2 * z, ch, mult, blocks, attends, middle)
        self.decoder = Half("up", z, 3, ch, mult, blocks, attends, middle)
        self.quant_conv = nn.Conv2d(z if codes else 2 * z, embed if codes else 2 * embed, 1)
        self.post_quant_conv = nn.Conv2d(embed, z, 1)
        if codes:
            self.quantize = nn.Module()
            self.quantize.embedding = nn.Embedding(codes, embed)

    def encode(self, x):
        h = self.quant_conv(self.encoder(x))
        return h if self.codes else h.chunk(2, 1)[0]

    def decode(self, z):
        if self.codes:
            flat = z.movedim(1, -1)
            distance = (flat[..., None, :] - self.quantize.embedding.weight).square().sum(-1)
            z = self.quantize.embedding.weight[distance.argmin(-1)].movedim(-1, 1)
        return self.decoder(self.post_quant_conv(z))
