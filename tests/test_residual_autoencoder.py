"""The VQ autoencoder of residual blocks: sizes, crops, and that it trains."""

import pytest
import torch

from ldm import config
from ldm.checkpoints.fitting import skeleton
from ldm.latent import VQ
from ldm.networks.residual_autoencoder import ResidualVQ
from ldm.training.bottleneck import whiten


def stage(**changes) -> VQ:
    torch.manual_seed(0)
    made = VQ(ResidualVQ(**{"widths": (16, 24), "blocks": 1, "codes": 32, **changes}))
    for parameter in made.parameters():  # the blocks begin as identities, which would hide them
        torch.nn.init.normal_(parameter, std=0.1)
    return made


@pytest.mark.parametrize("size", [(32, 32), (24, 40), (4, 4)])
@pytest.mark.parametrize("widths, factor", [((16, 24), 4), ((16,), 2), ((16, 16, 24), 8)])
def test_an_image_of_any_size_becomes_a_latent_and_an_image_again(size, widths, factor):
    size = tuple(max(side, factor) for side in size)
    vq = stage(widths=widths)
    assert vq.factor == factor
    image = torch.linspace(-1, 1, size[0] * size[1]).reshape(1, 1, *size)
    z = vq.encode(image)
    assert z.shape == (1, 3, size[0] // factor, size[1] // factor)
    assert vq.decode(z).shape == vq.decode(z, quantize=False).shape == image.shape


def test_a_crop_says_what_the_whole_image_says():
    """Away from the crop's border by what two blocks of two convolutions on each level see: 4 + 8 latent pixels."""
    vq = stage().double()
    image = torch.sin(torch.arange(128.0 * 128, dtype=torch.double) / 7).reshape(1, 1, 128, 128)
    whole, crop = vq.encode(image), vq.encode(image[..., 32:, 32:])
    torch.testing.assert_close(whole[..., 16:, 16:], crop[..., 8:, 8:], rtol=0, atol=1e-12)
    decoded, part = vq.decode(whole, False), vq.decode(whole[..., 8:, 8:], False)
    torch.testing.assert_close(decoded[..., 64:, 64:], part[..., 32:, 32:], rtol=0, atol=1e-12)


def test_whitening_changes_no_decoded_image():
    vq = stage().double()
    image = torch.sin(torch.arange(32.0 * 32, dtype=torch.double) / 3).reshape(1, 1, 32, 32)
    before = vq.decode(vq.encode(image), False)
    whiten(vq.model, vq.encode(image))
    z = vq.encode(image).transpose(0, 1).flatten(1)
    torch.testing.assert_close(torch.cov(z), torch.eye(3, dtype=torch.double), rtol=0, atol=1e-6)
    torch.testing.assert_close(vq.decode(vq.encode(image), False), before)


@pytest.mark.parametrize("levels", [1, 2, 3, 8])
def test_the_smallest_is_loaded_as_it_was_described(levels):
    """What it replaces of diffusers' while it is built counts little against the bound on hostile descriptions."""
    params = {"widths": [8] * levels, "blocks": 1, "codes": 32}
    node = {"target": "ldm.networks.residual_autoencoder.ResidualVQ", "params": params}
    state = config.build(node).state_dict()
    assert skeleton(node, len(state), "own.ckpt").state_dict().keys() == state.keys()
