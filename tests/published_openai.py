"""The U-Net of guided-diffusion, latent diffusion and Stable Diffusion, written from its description as plain modules whose
parameter names are the published ones. It is what the key maps are checked against; nothing outside the tests uses it."""

import math

import torch
from torch import nn
from torch.nn import functional as F


def norm(channels, eps=1e-5):
    return nn.GroupNorm(32, channels, eps)


class Residual(nn.Module):
    def __init__(self, into, out, emb, scale_shift=False, resample=None):
        super().__init__()
        self.scale_shift, self.resample = scale_shift, resample
        self.in_layers = nn.Sequential(norm(into), nn.SiLU(), nn.Conv2d(into, out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, 2 * out if scale_shift else out))
        self.out_layers = nn.Sequential(
            norm(out), nn.SiLU(), nn.Dropout(0), nn.Conv2d(out, out, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if into == out else nn.Conv2d(into, out, 1)

    def forward(self, x, emb):
        h = self.in_layers[:2](x)
        if self.resample == "down":
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        if self.resample == "up":
            h, x = (v.repeat_interleave(2, 2).repeat_interleave(2, 3) for v in (h, x))
        h = self.in_layers[2](h)
        e = self.emb_layers(emb)[:, :, None, None]
        if self.scale_shift:
            scale, shift = e.chunk(2, 1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + e)
        return self.skip_connection(x) + h


class Attention(nn.Module):
    """Fused qkv; rows (head, qkv, channel) in the legacy order, (qkv, head, channel) in the new one."""

    def __init__(self, channels, heads, order="legacy"):
        super().__init__()
        self.heads, self.order = heads, order
        self.norm, self.qkv, self.proj_out = (
            norm(channels),
            nn.Conv1d(channels, 3 * channels, 1),
            nn.Conv1d(channels, channels, 1),
        )

    def forward(self, x, emb=None):
        b, c, height, width = x.shape
        d, rows = c // self.heads, self.qkv(self.norm(x.reshape(b, c, -1)))
        out = torch.empty(b, c, height * width, dtype=x.dtype)
        for head in range(self.heads):
            if self.order == "legacy":
                q, k, v = (rows[:, (head * 3 + i) * d : (head * 3 + i + 1) * d] for i in range(3))
            else:
                q, k, v = (rows[:, i * c + head * d : i * c + (head + 1) * d] for i in range(3))
            weight = torch.softmax(torch.einsum("bcq,bck->bqk", q, k) / math.sqrt(d), -1)
            out[:, head * d : (head + 1) * d] = torch.einsum("bqk,bck->bcq", weight, v)
        return x + self.proj_out(out).reshape(x.shape)


class Cross(nn.Module):
    def __init__(self, channels, heads, context=None):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context or channels, channels, bias=False)
        self.to_v = nn.Linear(context or channels, channels, bias=False)
        self.to_out = nn.Sequential(nn.Linear(channels, channels), nn.Dropout(0))

    def forward(self, x, context=None):
        context = x if context is None else context
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)
        d = q.shape[-1] // self.heads
        parts = []
        for i in range(self.heads):
            s = slice(i * d, (i + 1) * d)
            parts.append(
                torch.softmax(q[..., s] @ k[..., s].transpose(1, 2) / math.sqrt(d), -1) @ v[..., s]
            )
        return self.to_out(torch.cat(parts, -1))


class Gated(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.proj = nn.Linear(channels, 8 * channels)

    def forward(self, x):
        value, gate = self.proj(x).chunk(2, -1)
        return value * F.gelu(gate)


class TransformerBlock(nn.Module):
    def __init__(self, channels, heads, context):
        super().__init__()
        self.attn1, self.attn2 = Cross(channels, heads), Cross(channels, heads, context)
        self.ff = nn.Module()
        self.ff.net = nn.Sequential(
            Gated(channels), nn.Dropout(0), nn.Linear(4 * channels, channels)
        )
        self.norm1, self.norm2, self.norm3 = (
            nn.LayerNorm(channels),
            nn.LayerNorm(channels),
            nn.LayerNorm(channels),
        )

    def forward(self, x, context):
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff.net(self.norm3(x))


class Transformer(nn.Module):
    def __init__(self, channels, heads, context, linear=False):
        super().__init__()
        self.linear, self.norm = linear, norm(channels, 1e-6)
        project = (
            (lambda: nn.Linear(channels, channels))
            if linear
            else (lambda: nn.Conv2d(channels, channels, 1))
        )
        self.proj_in, self.proj_out = project(), project()
        self.transformer_blocks = nn.ModuleList([TransformerBlock(channels, heads, context)])

    def forward(self, x, emb, context):
        h = self.norm(x)
        if self.linear:
            h = self.proj_in(h.flatten(2).transpose(1, 2))
        else:
            h = self.proj_in(h).flatten(2).transpose(1, 2)
        h = self.transformer_blocks[0](h, context)
        if self.linear:
            return x + self.proj_out(h).transpose(1, 2).reshape(x.shape)
        return x + self.proj_out(h.transpose(1, 2).reshape(x.shape))


class Down(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x, emb=None):
        return self.op(x)


class Up(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x, emb=None):
        return self.conv(x.repeat_interleave(2, 2).repeat_interleave(2, 3))


class UNet(nn.Module):
    """heads: channels -> number of heads. context: width attended to, or None for plain attention."""

    def __init__(
        self,
        channels,
        out,
        width,
        mult,
        blocks,
        attends,
        heads,
        order="legacy",
        scale_shift=False,
        resampling=False,
        classes=None,
        context=None,
        linear=False,
    ):
        super().__init__()
        self.width, self.context, emb = width, context, 4 * width
        self.time_embed = nn.Sequential(nn.Linear(width, emb), nn.SiLU(), nn.Linear(emb, emb))
        if classes:
            self.label_emb = nn.Embedding(classes, emb)

        def attention(c):
            return (
                Transformer(c, heads(c), context, linear)
                if context
                else Attention(c, heads(c), order)
            )

        def residual(a, b, resample=None):
            return Residual(a, b, emb, scale_shift, resample)

        c = int(width * mult[0]) if resampling else width
        skips = [c]
        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(channels, c, 3, padding=1)])])
        for level, m in enumerate(mult):
            for _ in range(blocks):
                row = [residual(c, int(width * m))] + (
                    [attention(int(width * m))] if level in attends else []
                )
                self.input_blocks.append(nn.ModuleList(row))
                skips.append(c := int(width * m))
            if level < len(mult) - 1:
                self.input_blocks.append(
                    nn.ModuleList([residual(c, c, "down") if resampling else Down(c)])
                )
                skips.append(c)
        self.middle_block = nn.ModuleList([residual(c, c), attention(c), residual(c, c)])
        self.output_blocks = nn.ModuleList()
        for level, m in reversed(list(enumerate(mult))):
            for i in range(blocks + 1):
                row = [residual(c + skips.pop(), int(width * m))] + (
                    [attention(int(width * m))] if level in attends else []
                )
                c = int(width * m)
                if level and i == blocks:
                    row.append(residual(c, c, "up") if resampling else Up(c))
                self.output_blocks.append(nn.ModuleList(row))
        self.out = nn.Sequential(norm(c), nn.SiLU(), nn.Conv2d(c, out, 3, padding=1))

    def forward(self, x, t, label=None, context=None):
        half = self.width // 2
        phase = t[:, None].float() * torch.exp(-math.log(10000) * torch.arange(half).float() / half)
        emb = self.time_embed(torch.cat([phase.cos(), phase.sin()], 1).to(x.dtype))
        if label is not None and hasattr(self, "label_emb"):
            emb = emb + self.label_emb(label)

        def through(row, x):
            for module in row:
                if isinstance(module, nn.Conv2d):
                    x = module(x)
                elif isinstance(module, Transformer):
                    x = module(x, emb, context)
                else:
                    x = module(x, emb)
            return x

        skips = []
        for row in self.input_blocks:
            skips.append(x := through(row, x))
        x = through(self.middle_block, x)
        for row in self.output_blocks:
            x = through(row, torch.cat([x, skips.pop()], 1))
        return self.out(x)
