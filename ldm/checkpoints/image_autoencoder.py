"""CompVis autoencoders (VQ-f4, VQ-f8, KL-f4 ... KL-f32): their YAML and keys -> diffusers' VQModel and AutoencoderKL."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from data.files import Refusal
from ldm.checkpoints.description import node, under
from ldm.checkpoints.keymaps import autoencoder, rename
from ldm.checkpoints.options import Options

DISCARDED = (
    "loss.",
    "model_ema.",
    "colorize",
)  # the discriminator and perceptual network of its training


def describe(
    settings: Mapping[str, Any], source: Mapping[str, Tensor], path: Path
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """An autoencoder's `params` (embed_dim, n_embed, ddconfig) and weights -> ldm.latent.VQ or KL node and its state."""
    params = Options(
        settings,
        path,
        ignored=(
            "lossconfig",
            "monitor",
            "ckpt_path",
            "ignore_keys",
            "image_key",
            "use_ema",
            "remap",
        ),
    )
    net = Options(
        params.take("ddconfig", dict),
        path,
        ignored=("dropout", "double_z", "resamp_with_conv", "tanh_out", "use_linear_attn"),
    )
    codes, latent = params.take("n_embed", int, None), net.take("z_channels", int)
    multipliers, blocks, resolution = (
        net.take("ch_mult", list),
        net.take("num_res_blocks", int),
        net.take("resolution", int),
    )
    attends = [
        i
        for i in range(len(multipliers))
        if resolution >> i in net.take("attn_resolutions", list, [])
    ]
    width = net.take("ch", int)
    common = dict(
        in_channels=net.take("in_channels", int, 3),
        out_channels=net.take("out_ch", int, 3),
        block_out_channels=[width * m for m in multipliers],
        layers_per_block=blocks,
        down_block_types=[
            "AttnDownEncoderBlock2D" if i in attends else "DownEncoderBlock2D"
            for i in range(len(multipliers))
        ],
        up_block_types=[
            "AttnUpDecoderBlock2D" if i in attends else "UpDecoderBlock2D"
            for i in reversed(range(len(multipliers)))
        ],
        latent_channels=latent,
        mid_block_add_attention=net.take("attn_type", str, "vanilla") != "none",
        scaling_factor=1.0,  # the scale lives in LatentPrior
    )
    embedded = params.take("embed_dim", int)
    params.finish()
    net.finish()
    if codes is None and embedded != latent:
        raise Refusal(
            f"{path}: a KL autoencoder with embed_dim {embedded} unlike z_channels {latent} is not supported"
        )
    inner = (
        node("diffusers.AutoencoderKL", **common)
        if codes is None
        else node("diffusers.VQModel", **common, num_vq_embeddings=codes, vq_embed_dim=embedded)
    )
    kept = {key: tensor for key, tensor in source.items() if not key.startswith(DISCARDED)}
    state = rename(kept, autoencoder(len(multipliers), blocks, attends))
    return node("ldm.latent.KL" if codes is None else "ldm.latent.VQ", model=inner), under(
        "model.", state
    )
