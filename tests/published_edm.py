"""SongUNet and DhariwalUNet from their description (Karras et al. 2022, appendix F), with EDM's module names, and pickled as EDM
pickles them: each module as a call of `torch_utils.persistence._reconstruct_persistent_obj` with its class's source text."""

import math
import pickle
import sys
import types

import torch
from torch import nn
from torch.nn import functional as F

SOURCE = "import os\nos.system('touch {trap}')\nclass Anything: pass\n"
TRAP = ["/nonexistent/trap"]


class EasyDict(dict):
    pass


def _reconstruct_persistent_obj(meta):
    raise AssertionError("only a reader that trusts the file calls this")


class Persistent(nn.Module):
    def __init__(self, **arguments):
        super().__init__()
        self._init_args, self._init_kwargs = (), EasyDict(arguments)

    def __reduce__(self):
        meta = {
            "type": "class",
            "version": 6,
            "module_src": SOURCE.format(trap=TRAP[0]),
            "class_name": type(self).__name__,
            "state": self.__dict__,
        }
        return _reconstruct_persistent_obj, (meta,)


class Linear(Persistent):
    def __init__(self, a, b, bias=True):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(b, a))
        self.bias = nn.Parameter(torch.zeros(b)) if bias else None

    def forward(self, x):
        return x @ self.weight.T + (0 if self.bias is None else self.bias)


class Conv2d(Persistent):
    def __init__(self, a, b, kernel, way=None, taps=(1, 1), fused=False):
        super().__init__()
        self.way, self.fused, self.kernel = way, fused, kernel
        self.weight = nn.Parameter(torch.empty(b, a, kernel, kernel)) if kernel else None
        self.bias = nn.Parameter(torch.zeros(b)) if kernel else None
        f = torch.tensor([float(v) for v in taps])
        self.register_buffer(
            "resample_filter", torch.outer(f, f)[None, None] / f.sum() ** 2 if way else None
        )

    def forward(self, x):
        f, pad = (
            self.resample_filter,
            0 if self.resample_filter is None else (self.resample_filter.shape[-1] - 1) // 2,
        )
        if self.way == "down" and self.fused:
            x = F.conv2d(x, self.weight, padding=self.kernel // 2 + pad)
            return (
                F.conv2d(x, f.repeat(x.shape[1], 1, 1, 1), stride=2, groups=x.shape[1])
                + self.bias[:, None, None]
            )
        if self.way == "down":
            x = F.conv2d(x, f.repeat(x.shape[1], 1, 1, 1), stride=2, padding=pad, groups=x.shape[1])
        if self.way == "up":
            x = F.conv_transpose2d(
                x, 4 * f.repeat(x.shape[1], 1, 1, 1), stride=2, padding=pad, groups=x.shape[1]
            )
        return F.conv2d(x, self.weight, self.bias, padding=self.kernel // 2) if self.kernel else x


class GroupNorm(Persistent):
    def __init__(self, c, eps=1e-5):
        super().__init__()
        self.eps, self.count = eps, min(32, c // 4)
        self.weight, self.bias = nn.Parameter(torch.ones(c)), nn.Parameter(torch.zeros(c))

    def forward(self, x):
        g = x.reshape(len(x), self.count, -1)
        g = (g - g.mean(2, keepdim=True)) / (
            g.var(2, keepdim=True, unbiased=False) + self.eps
        ).sqrt()
        return g.reshape(x.shape) * self.weight[:, None, None] + self.bias[:, None, None]


class FourierEmbedding(Persistent):
    def __init__(self, c):
        super().__init__()
        self.register_buffer("freqs", torch.linspace(-30, 30, c // 2))


class UNetBlock(Persistent):
    def __init__(
        self,
        a,
        b,
        emb,
        way=None,
        heads=0,
        taps=(1, 1),
        adaptive=False,
        project=True,
        scale=1.0,
        eps=1e-5,
    ):
        super().__init__()
        self.heads, self.adaptive, self.scale, self.into = heads, adaptive, scale, a
        self.norm0, self.conv0, self.affine = (
            GroupNorm(a, eps),
            Conv2d(a, b, 3, way, taps),
            Linear(emb, b * (1 + adaptive)),
        )
        self.norm1, self.conv1 = GroupNorm(b, eps), Conv2d(b, b, 3)
        self.skip = (
            Conv2d(a, b, 1 if a != b or project else 0, way, taps) if a != b or way else None
        )
        if heads:
            self.norm2, self.qkv, self.proj = (
                GroupNorm(b, eps),
                Conv2d(b, 3 * b, 1),
                Conv2d(b, b, 1),
            )

    def forward(self, x, emb):
        h = self.conv0(F.silu(self.norm0(x)))
        e = self.affine(emb)[:, :, None, None]
        if self.adaptive:
            scale, shift = e.chunk(2, 1)
            h = F.silu(shift + self.norm1(h) * (scale + 1))
        else:
            h = F.silu(self.norm1(h + e))
        x = (self.conv1(h) + (self.skip(x) if self.skip else x)) * self.scale
        if self.heads:
            b, c, rows, columns = x.shape
            d = c // self.heads
            qkv = self.qkv(self.norm2(x)).reshape(b, self.heads, d, 3, -1)
            weight = torch.softmax(
                torch.einsum("bhcq,bhck->bhqk", qkv[:, :, :, 0], qkv[:, :, :, 1]) / math.sqrt(d), -1
            )
            x = (
                x
                + self.proj(
                    torch.einsum("bhqk,bhck->bhcq", weight, qkv[:, :, :, 2]).reshape(x.shape)
                )
            ) * self.scale
        return x


class UNet(Persistent):
    def build(
        self, R, channels, out, base, first, mult, blocks, attended, block, every, residual, heads
    ):
        enc, dec, caux, c, skips = {}, {}, channels, first, []
        enc[f"{R}x{R}_conv"] = Conv2d(channels, first, 3)
        skips.append(first)
        for level, m in enumerate(mult):
            r = R >> level
            if level:
                enc[f"{r}x{r}_down"] = block(c, c, way="down")
                if residual:
                    enc[f"{r}x{r}_aux_residual"] = Conv2d(
                        caux, c, 3, "down", (1, 3, 3, 1), fused=True
                    )
                    caux = c
                skips.append(c)
            for i in range(blocks):
                enc[f"{r}x{r}_block{i}"] = block(
                    c, base * m, heads=heads(base * m) if r in attended else 0
                )
                skips.append(c := base * m)
        for level, m in reversed(list(enumerate(mult))):
            r = R >> level
            if level == len(mult) - 1:
                dec[f"{r}x{r}_in0"], dec[f"{r}x{r}_in1"] = block(c, c, heads=heads(c)), block(c, c)
            else:
                dec[f"{r}x{r}_up"] = block(c, c, way="up")
            for i in range(blocks + 1):
                attend = r in attended and (every or i == blocks)
                dec[f"{r}x{r}_block{i}"] = block(
                    c + skips.pop(), base * m, heads=heads(base * m) if attend else 0
                )
                c = base * m
        self.enc = nn.ModuleDict(enc)
        return dec, c

    def walk(self, x, emb):
        skips, aux = [], x
        for name, module in self.enc.items():
            if "aux_residual" in name:
                x = skips[-1] = aux = (x + module(aux)) / math.sqrt(2)
            else:
                x = module(x, emb) if isinstance(module, UNetBlock) else module(x)
                skips.append(x)
        for module in self.dec.values():
            if isinstance(module, UNetBlock):
                x = module(x if x.shape[1] == module.into else torch.cat([x, skips.pop()], 1), emb)
        return x


class SongUNet(UNet):
    def __init__(
        self,
        img_resolution,
        in_channels,
        out_channels,
        label_dim=0,
        augment_dim=0,
        model_channels=128,
        channel_mult=(1, 2, 2, 2),
        num_blocks=4,
        attn_resolutions=(16,),
        embedding_type="positional",
        encoder_type="standard",
        **rest,
    ):
        super().__init__(
            img_resolution=img_resolution,
            in_channels=in_channels,
            out_channels=out_channels,
            label_dim=label_dim,
            augment_dim=augment_dim,
            model_channels=model_channels,
            channel_mult=list(channel_mult),
            num_blocks=num_blocks,
            attn_resolutions=list(attn_resolutions),
            embedding_type=embedding_type,
            encoder_type=encoder_type,
            decoder_type="standard",
            dropout=0.1,
            channel_mult_noise=2 if embedding_type == "fourier" else 1,
            resample_filter=[1, 3, 3, 1] if encoder_type == "residual" else [1, 1],
            **rest,
        )
        emb, fourier = 4 * model_channels, embedding_type == "fourier"
        self.noise, self.label_dim = model_channels * (2 if fourier else 1), label_dim
        self.map_noise = FourierEmbedding(self.noise) if fourier else None
        self.map_label = Linear(label_dim, self.noise) if label_dim else None
        self.map_augment = Linear(augment_dim, self.noise, bias=False) if augment_dim else None
        self.map_layer0, self.map_layer1 = Linear(self.noise, emb), Linear(emb, emb)
        taps = (1, 3, 3, 1) if encoder_type == "residual" else (1, 1)

        def block(a, b, way=None, heads=0):
            return UNetBlock(a, b, emb, way, heads, taps, scale=math.sqrt(0.5), eps=1e-6)

        dec, c = self.build(
            img_resolution,
            in_channels,
            out_channels,
            model_channels,
            model_channels,
            channel_mult,
            num_blocks,
            attn_resolutions,
            block,
            False,
            encoder_type == "residual",
            lambda c: 1,
        )
        dec[f"{img_resolution}x{img_resolution}_aux_norm"] = GroupNorm(c, 1e-6)
        dec[f"{img_resolution}x{img_resolution}_aux_conv"] = Conv2d(c, out_channels, 3)
        self.dec = nn.ModuleDict(dec)

    def forward(self, x, t, label=None):
        if self.map_noise is None:
            i = torch.arange(self.noise // 2)
            phase = t[:, None] / 10000 ** (i / (self.noise // 2 - 1))
        else:
            phase = t[:, None] * 2 * math.pi * self.map_noise.freqs
        e = torch.cat([phase.sin(), phase.cos()], 1)
        if self.map_label is not None and label is not None:
            e = e + self.map_label(F.one_hot(label, self.label_dim) * math.sqrt(self.label_dim))
        x = self.walk(x, F.silu(self.map_layer1(F.silu(self.map_layer0(e)))))
        norm, conv = list(self.dec.values())[-2:]
        return conv(F.silu(norm(x)))


class DhariwalUNet(UNet):
    def __init__(
        self,
        img_resolution,
        in_channels,
        out_channels,
        label_dim=0,
        model_channels=192,
        channel_mult=(1, 2, 3, 4),
        num_blocks=3,
        attn_resolutions=(32, 16, 8),
        head=64,
        channel_mult_emb=4,
        **rest,
    ):
        super().__init__(
            img_resolution=img_resolution,
            in_channels=in_channels,
            out_channels=out_channels,
            label_dim=label_dim,
            model_channels=model_channels,
            channel_mult=list(channel_mult),
            num_blocks=num_blocks,
            attn_resolutions=list(attn_resolutions),
            channel_mult_emb=channel_mult_emb,
            **rest,
        )
        emb = channel_mult_emb * model_channels
        self.base, self.label_dim = model_channels, label_dim
        self.map_layer0, self.map_layer1 = Linear(model_channels, emb), Linear(emb, emb)
        self.map_label = Linear(label_dim, emb, bias=False) if label_dim else None

        def block(a, b, way=None, heads=0):
            return UNetBlock(a, b, emb, way, heads, adaptive=True, project=False)

        dec, c = self.build(
            img_resolution,
            in_channels,
            out_channels,
            model_channels,
            model_channels * channel_mult[0],
            channel_mult,
            num_blocks,
            attn_resolutions,
            block,
            True,
            False,
            lambda c: c // head,
        )
        self.dec = nn.ModuleDict(dec)
        self.out_norm, self.out_conv = GroupNorm(c), Conv2d(c, out_channels, 3)

    def forward(self, x, t, label=None):
        phase = t[:, None] / 10000 ** (torch.arange(self.base // 2) / (self.base // 2))
        e = self.map_layer1(F.silu(self.map_layer0(torch.cat([phase.cos(), phase.sin()], 1))))
        if self.map_label is not None and label is not None:
            e = e + self.map_label(F.one_hot(label, self.label_dim).float())
        return self.out_conv(F.silu(self.out_norm(self.walk(x, F.silu(e)))))


class EDMPrecond(Persistent):
    """Also stands for VPPrecond and VEPrecond: `formula` is what the tests compute by hand."""

    def __init__(self, model, **constants):
        super().__init__()
        self.model = model
        self.sigma_min, self.sigma_max = 0, float("inf")
        for name, value in constants.items():
            setattr(self, name, value)


class VPPrecond(EDMPrecond):
    pass


class VEPrecond(EDMPrecond):
    pass


def dump(precond, path, trap="/nonexistent/trap"):
    """What EDM's training loop writes: pickled under the module names a reader of such files knows."""
    TRAP[0] = str(trap)
    persistence, dnnlib = (
        types.ModuleType("torch_utils.persistence"),
        types.ModuleType("dnnlib.util"),
    )
    persistence._reconstruct_persistent_obj, dnnlib.EasyDict = _reconstruct_persistent_obj, EasyDict
    parents = {"torch_utils": types.ModuleType("torch_utils"), "dnnlib": types.ModuleType("dnnlib")}
    names = (_reconstruct_persistent_obj.__module__, EasyDict.__module__)
    sys.modules |= parents | {"torch_utils.persistence": persistence, "dnnlib.util": dnnlib}
    _reconstruct_persistent_obj.__module__, EasyDict.__module__ = (
        "torch_utils.persistence",
        "dnnlib.util",
    )
    try:
        with open(path, "wb") as file:
            pickle.dump(
                {
                    "ema": precond,
                    "loss_fn": None,
                    "augment_pipe": None,
                    "dataset_kwargs": EasyDict(path="x.zip"),
                },
                file,
            )
    finally:
        _reconstruct_persistent_obj.__module__, EasyDict.__module__ = names
        for name in (*parents, "torch_utils.persistence", "dnnlib.util"):
            del sys.modules[name]
    return path
