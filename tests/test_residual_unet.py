"""The network of the pixel prior: any size, the same answer for a crop and its whole image, positions that begin at zero."""

import pytest
import torch

from ldm import config
from ldm.denoiser import EDM, Prior
from ldm.networks.residual_unet import ResidualUNet
from ldm.resize import fit

SMALL = dict(widths=(8, 12), blocks=1)
REACH = (
    4 + 2 + (2 + 2 + 2 + 1) * 2 + (2 + 2) * 4
)  # pixels, of SMALL: convolutions of the finest level see 2, of the other 4


def random(**arguments) -> ResidualUNet:
    """No weight is zero, so that every path counts."""
    torch.manual_seed(0)
    network = ResidualUNet(**{**SMALL, **arguments})
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network.double().requires_grad_(False)


@pytest.mark.parametrize("size", [(64, 64), (1, 1), (7, 9), (33, 50), (5, 64)])
def test_any_size(size):
    network = random(channels=2, out=3)
    assert network(torch.randn(2, 2, *size).double(), torch.zeros(2).double()).shape == (
        2,
        3,
        *size,
    )


def test_sizes_and_parameters():
    assert sum(p.numel() for p in ResidualUNet().parameters()) == 1_958_596
    with torch.device("meta"):
        large = config.build(config.load(["configs/pixel-diffusion/medical-256.yaml"])["prior"])
    assert sum(p.numel() for p in large.parameters()) == 34_716_420


def test_a_crop_gets_the_numbers_of_its_image():
    """Of every pixel that lies further from the crop's border than the network sees; group norms fail this."""
    network, time = random(), torch.tensor([-0.3]).double()
    image = torch.randn(1, 1, 128, 144).double()
    whole, crop = network(image, time), network(image[..., 16:112, 24:128], time)
    inside = slice(REACH, -REACH)
    difference = whole[..., 16:112, 24:128][..., inside, inside] - crop[..., inside, inside]
    assert difference.numel() > 100 and difference.abs().max() < 1e-12 * whole.abs().max() * REACH


def test_padding_for_odd_sizes_is_seen_no_further_than_the_network_reaches():
    network, time = random(), torch.tensor([0.2]).double()
    image = torch.randn(1, 1, 99, 101).double()
    longer = torch.nn.functional.pad(image, (0, 3, 0, 1), mode="replicate")
    assert torch.equal(network(image, time), network(longer, time)[..., :99, :101])


def test_it_hears_the_noise_level_and_each_image_its_own():
    network, image = random(), torch.randn(2, 1, 16, 16).double()
    both = network(image, torch.tensor([-0.5, 0.5]).double())
    assert torch.allclose(both[1:], network(image[1:], torch.tensor([0.5]).double()), atol=1e-12)
    assert not torch.allclose(both[:1], network(image[:1], torch.tensor([0.5]).double()), atol=1e-3)


def test_positions_begin_at_zero():
    """So that a network without them is the start of one with them."""
    torch.manual_seed(0)
    plain, placed = ResidualUNet(**SMALL), ResidualUNet(positions=2, **SMALL)
    torch.nn.init.normal_(plain.leave.weight)
    found = placed.load_state_dict(plain.state_dict(), strict=False)
    assert found.missing_keys == ["place.weight"] and not found.unexpected_keys
    x, time = torch.randn(2, 3, 16, 16), torch.zeros(2)
    assert torch.equal(plain(x[:, :1], time), placed(x, time))
    torch.nn.init.normal_(placed.place.weight)
    assert not torch.allclose(plain(x[:, :1], time), placed(x, time))


def test_forward_derivatives_exist():
    """Solvers take D's Jacobian."""
    network, x = random(), torch.randn(1, 1, 19, 16).double()
    time, v = torch.zeros(1).double(), torch.randn(1, 1, 19, 16).double()
    _, jvp = torch.func.jvp(lambda one: network(one, time), (x,), (v,))
    h = 1e-6
    numeric = (network(x + h * v, time) - network(x - h * v, time)) / (2 * h)
    assert torch.allclose(jvp, numeric, rtol=1e-6, atol=1e-7 * float(jvp.abs().max()))


def test_a_prior_of_it_takes_any_size_as_it_is(tmp_path):
    prior = Prior(EDM(ResidualUNet(**SMALL)), (1, 16, 16))
    assert prior.any_size
    sized, note = fit(prior, (1, 37, 21))
    assert (
        sized.shape == sized.image_shape == (1, 37, 21) and not note and prior.shape == (1, 16, 16)
    )
    assert sized.denoise(torch.randn(2, 1, 37, 21), torch.ones(2)).shape == (2, 1, 37, 21)


def test_the_times_of_a_table_are_scaled():
    """A network under ldm.denoiser.VP, told t = 700 at 0.003 a unit, says what it says at 2.1 under EDM."""
    plain, scaled = random(), random(time_scale=0.003)  # the same weights
    x = torch.linspace(-1, 1, 256).double().reshape(1, 1, 16, 16)
    late, early = torch.tensor([700.0]).double(), torch.tensor([2.1]).double()
    torch.testing.assert_close(scaled(x, late), plain(x, early))
    assert not torch.allclose(plain(x, late), plain(x, early))
