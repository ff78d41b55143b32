"""Our key maps of Stable Diffusion against the converters that diffusers has for the same files."""

import pytest
import torch
from foreign import randomise
from published_openai import UNet
from published_taming import Autoencoder

from ldm.checkpoints import image_autoencoder, stable_diffusion
from ldm.checkpoints.openai_unet import OpenAIUNet

convert = pytest.importorskip("diffusers.loaders.single_file_utils")
pytestmark = pytest.mark.skipif(
    not hasattr(convert, "convert_ldm_unet_checkpoint")
    or not hasattr(convert, "convert_ldm_vae_checkpoint"),
    reason="this diffusers has no such converters",
)


def same(ours, theirs):
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[key], theirs[key].reshape(ours[key].shape)) for key in ours)


@pytest.mark.parametrize(
    "context,heads", [(768, dict(heads=8)), (1024, dict(head=64, linear=True))]
)
def test_the_network(context, heads):
    linear = heads.get("linear", False)
    source = randomise(
        UNet(4, 4, 64, (1, 2, 4, 4), 2, (0, 1, 2), lambda c: 8, context=context, linear=linear)
    ).state_dict()
    unet = OpenAIUNet(64, 4, 4, 64, (1, 2, 4, 4), 2, (0, 1, 2), context=context, **heads)
    settings = {"layers_per_block": 2, "class_embed_type": None, "addition_embed_type": None}
    prefixed = {f"model.diffusion_model.{key}": tensor for key, tensor in source.items()}
    same(unet.weights(source), convert.convert_ldm_unet_checkpoint(prefixed, settings))


def test_the_autoencoder(monkeypatch):
    source = randomise(Autoencoder(ch=32, mult=(1, 2, 4, 4), z=4, embed=4, codes=None)).state_dict()
    kl = stable_diffusion.KL_F8
    _, state = image_autoencoder.describe(
        {**kl, "ddconfig": {**kl["ddconfig"], "ch": 32}}, source, "x"
    )
    prefixed = {f"first_stage_model.{key}": tensor for key, tensor in source.items()}
    theirs = convert.convert_ldm_vae_checkpoint(
        prefixed, {"down_block_types": [0] * 4, "up_block_types": [0] * 4}
    )
    same(state, {f"model.{key}": tensor for key, tensor in theirs.items()})
