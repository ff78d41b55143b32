"""EDM snapshots: pickled in the published way with random weights, read without executing, against an independent forward."""

import re

import pytest
import torch
from foreign import close, fits, golden, normal, randomise
from published_edm import DhariwalUNet, EDMPrecond, SongUNet, VEPrecond, VPPrecond, dump

from ldm import checkpoints
from ldm.checkpoints.edm import UNUSED, ours
from ldm.networks.edm import DhariwalUNet as OurDhariwal
from ldm.networks.edm import SongUNet as OurSong
from ldm.patch import PatchPrior, positions

SMALL = dict(model_channels=16, channel_mult=(1, 2, 2), num_blocks=2, attn_resolutions=(8,))


def edm(network, x, sigma, sd=0.5, label=None, position=None):
    """Karras et al. 2022, table 1, last column."""
    c_in, c_out = 1 / (sigma**2 + sd**2) ** 0.5, sigma * sd / (sigma**2 + sd**2) ** 0.5
    scaled = c_in * x if position is None else torch.cat([c_in * x, position], 1)
    c_noise = torch.full((len(x),), sigma).log() / 4
    return sd**2 / (sigma**2 + sd**2) * x + c_out * network(scaled, c_noise, label)


def agrees(prior, expected, x, sigma):
    with torch.no_grad():
        assert close(prior.denoise(x, torch.full((len(x),), sigma)), expected)


NETWORKS = {
    "ddpm++": lambda **k: SongUNet(16, 3, 3, augment_dim=9, **SMALL, **k),
    "ncsn++": lambda **k: SongUNet(
        16, 3, 3, embedding_type="fourier", encoder_type="residual", **SMALL, **k
    ),
    "adm, wide embedding": lambda **k: DhariwalUNet(
        16,
        3,
        3,
        model_channels=64,
        channel_mult=(1, 2),
        num_blocks=1,
        attn_resolutions=(8,),
        channel_mult_emb=2,
        **k,
    ),
    "adm": lambda **k: DhariwalUNet(
        16, 3, 3, model_channels=64, channel_mult=(1, 2), num_blocks=1, attn_resolutions=(8,), **k
    ),
}


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("label", [None, 3])
def test_networks_of_the_family(tmp_path, kind, label):
    network = randomise(NETWORKS[kind](label_dim=5 if label is not None else 0))
    path = dump(EDMPrecond(network, sigma_data=0.7), tmp_path / "net.pkl", trap=tmp_path / "trap")
    prior = checkpoints.load(path, None if label is None else {"label": label})
    assert prior.shape == (3, 16, 16) and prior.denoiser.sigma_data == 0.7
    x = normal(2, 3, 16, 16)
    for sigma in (0.01, 1.0, 50.0):
        with torch.no_grad():
            expected = edm(
                network, x, sigma, 0.7, None if label is None else torch.full((2,), label)
            )
        agrees(prior, expected, x, sigma)
    assert not (tmp_path / "trap").exists()  # the source text inside the file was never run


def test_vp_and_ve_preconditioning(tmp_path):
    network, x, sigma = randomise(NETWORKS["ddpm++"]()), normal(2, 3, 16, 16), 2.0
    beta_d, beta_min = 19.9, 0.1
    t = (
        (beta_min**2 + 2 * beta_d * torch.log(torch.tensor(1 + sigma**2))) ** 0.5 - beta_min
    ) / beta_d
    with torch.no_grad():
        vp = x - sigma * network(x / (1 + sigma**2) ** 0.5, (999 * t).expand(2))
        ve = x + sigma * network(x, torch.log(torch.tensor(sigma / 2)).expand(2))
    constants = dict(beta_d=beta_d, beta_min=beta_min, M=1000, sigma_min=0.002, sigma_max=152.0)
    prior = checkpoints.load(dump(VPPrecond(network, **constants), tmp_path / "vp.pkl"))
    agrees(prior, vp, x, sigma)
    assert (prior.sigma_min, prior.sigma_max) == (0.002, 152.0)
    agrees(
        checkpoints.load(
            dump(VEPrecond(network, sigma_min=0.02, sigma_max=100), tmp_path / "ve.pkl")
        ),
        ve,
        x,
        sigma,
    )


def test_padis_patch_net_in_unit_range(tmp_path):
    """One tile by hand: 20 x 20 image, P = 16, M = 12, padded 44; corner of the tile from the prior's own layout."""
    network = randomise(SongUNet(44, 3, 1, **SMALL))
    path = dump(EDMPrecond(network, sigma_data=0.5), tmp_path / "padis.pkl")
    with pytest.raises(
        ValueError, match="does not say its geometry: give size, patch, pad and unit_range"
    ):
        checkpoints.load(path)
    prior = checkpoints.load(path, {"size": 20, "patch": 16, "pad": 12, "unit_range": True})
    assert (
        isinstance(prior, PatchPrior)
        and prior.shape == (1, 44, 44)
        and (prior.sigma_min, prior.sigma_max) == (0.004, 80.0)
    )
    x, sigma = normal(1, 1, 44, 44), 0.6
    (rows, columns), grid = prior.layouts(1, None)[0], positions(44)
    r, c = int(rows[0, 0]), int(columns[0, 0])
    tile, place = x[:, :, r : r + 16, c : c + 16], grid[None, :, r : r + 16, c : c + 16]
    with torch.no_grad():
        d = 2 * edm(network, (tile + 1) / 2, sigma / 2, position=place) - 1
        found = prior.denoise(x, torch.tensor([sigma]))[:, :, r : r + 16, c : c + 16]
    inside = prior.pad(torch.ones(1, 1, 20, 20), 0.0)[:, :, r : r + 16, c : c + 16] > 0
    assert inside.any() and close(found[inside], d[inside])


def test_patch_diffusion_on_whole_images(tmp_path):
    network = randomise(SongUNet(16, 5, 3, **SMALL))
    prior = checkpoints.load(
        dump(EDMPrecond(network, sigma_data=0.5), tmp_path / "pd.pkl"), {"whole": True}
    )
    x = normal(2, 3, 16, 16)
    with torch.no_grad():
        agrees(prior, edm(network, x, 1.5, position=positions(16).expand(2, -1, -1, -1)), x, 1.5)


def test_names_of_resolutions_that_are_no_powers_of_two():
    assert ours("enc.304x304_conv.weight", 304) == "encoder.0_conv.weight"
    assert ours("dec.38x38_in0.qkv.bias", 304) == "decoder.3_in0.qkv.bias"
    assert ours("dec.304x304_aux_conv.weight", 304) == "out_conv.weight"
    assert ours("enc.152x152_aux_residual.weight", 304) == "encoder.1_residual.weight"


FULL = {
    "edm-ffhq-64": (lambda: SongUNet(64, 3, 3), lambda: OurSong(3, attention=(2,))),
    "edm-ffhq-64-ncsnpp": (
        lambda: SongUNet(64, 3, 3, embedding_type="fourier", encoder_type="residual"),
        lambda: OurSong(3, kind="ncsn++", attention=(2,)),
    ),
    "edm-imagenet-64-adm": (
        lambda: DhariwalUNet(64, 3, 3, label_dim=1000),
        lambda: OurDhariwal(3, classes=1000),
    ),
    "padis-256": (lambda: SongUNet(304, 3, 1), lambda: OurSong(3, 1)),
}


@pytest.mark.parametrize("name", FULL)
def test_full_size_layouts(name):
    theirs, own = FULL[name]
    with torch.device("meta"):
        source, target = theirs(), own()
    golden(name, source)
    resolution = source._init_kwargs["img_resolution"]
    fits(
        {
            ours(key, resolution): tensor
            for key, tensor in source.state_dict().items()
            if not UNUSED.search(key)
        },
        target,
    )


def test_other_classes_are_refused(tmp_path):
    class Strange(EDMPrecond):
        pass

    path = dump(Strange(NETWORKS["ddpm++"]()), tmp_path / "x.pkl")
    with pytest.raises(
        ValueError, match="holds a Strange that is not one of EDMPrecond, VPPrecond, VEPrecond"
    ):
        checkpoints.load(path)


@pytest.mark.parametrize(
    "kind, form",
    [("ddpm++", {"resample_filter": [1, 3, 3, 1]}), ("ncsn++", {"channel_mult_noise": 1})],
)
def test_forms_of_the_network_that_no_name_shows_are_refused(tmp_path, kind, form):
    """The filter is a constant of the source code: read as another kind's, all would load and every image be wrong."""
    network = NETWORKS[kind]()
    network._init_kwargs |= form
    with pytest.raises(
        ValueError,
        match=f"a {re.escape(kind)} net of channel_mult_noise . and resample_filter .* is not supported",
    ):
        checkpoints.load(dump(EDMPrecond(network), tmp_path / "x.pkl"))
