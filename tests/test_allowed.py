"""Numbers of a description that mean nothing are refused, by name, where the thing that they describe is built."""

import math

import pytest
from torch import nn

from ldm import config
from ldm.denoiser import EDM, Prior
from ldm.latent import LatentPrior
from ldm.networks.edm import DhariwalUNet, SongUNet
from ldm.networks.unet import UNet, VQModel
from ldm.patch import PatchPrior
from ldm.sampling import DDIM, Heun, Langevin
from ldm.schedule import Table
from ldm.training.bottleneck import Codebook
from ldm.training.crops import Crops
from ldm.training.noise_levels import Mixture
from ldm.training.optimisation import AdamW

NET = nn.Identity()


def latent(**params):
    return LatentPrior(NET, (1, 4, 4), NET, **params)


NONSENSE = [
    (lambda: Prior(NET, (1, 4, 4), sigma_min=0.0), "sigma_min must be finite and above 0, not 0.0"),
    (lambda: Prior(NET, (1, 4, 4), sigma_max=math.inf), "sigma_max must be finite"),
    (lambda: Prior(NET, (1, 4, 4), 5.0, 1.0), "sigma_min 5.0 must be below sigma_max 1.0"),
    (lambda: Prior(NET, (1, 0, 4)), "shape must be at least 1"),
    (lambda: Prior(NET, (1, 4, 4), variances=[[0.1, -1.0]]), "variances: a row is a noise level"),
    (lambda: EDM(NET, sigma_data=0.0), "sigma_data must be"),
    (lambda: Table("linear", 0.1, 1.0), "beta_end must lie between 0 and 1"),
    (lambda: latent(scale=0.0), "scale must be finite and above 0"),
    (lambda: latent(shift=math.nan), "shift must be finite"),
    (lambda: latent(error_variance=-1.0), "error_variance must be"),
    (lambda: latent(image_variances=[[1.0]]), "variances: a row"),
    (lambda: PatchPrior(NET, 1, 16, 0), "patch must be at least 1"),
    (lambda: PatchPrior(NET, 1, 16, 8, partitions=0), "partitions must be at least 1"),
    (lambda: UNet(1, []), r"widths must be at least 1, not \[\]"),
    (lambda: UNet(1, [16], groups=4, attention=[0]), "head 32 is more than the 16 channels"),
    (lambda: UNet(1, [32], groups=0), "groups must be at least 1"),
    (lambda: VQModel(codes=0), "codes must be at least 1"),
    (lambda: SongUNet(1, multipliers=[]), "widths must be"),
    (
        lambda: DhariwalUNet(1, width=32, multipliers=[1], attention=[0]),
        "head 64 is more than the 32 channels",
    ),
    (lambda: Codebook(0), "codes must be"),
    (lambda: Crops({8: 1.5, 4: -0.5}), r"the probability of 8 must lie in \[0, 1\]"),
    (lambda: Crops({0: 1.0}), "a patch size must be at least 1"),
    (lambda: Mixture(uniform=2.0), "uniform must lie in"),
    (lambda: AdamW(math.inf), "lr must be finite"),
    (lambda: DDIM(eta=2.0), "eta must lie in"),
    (lambda: Heun(rho=0.0), "rho must be"),
    (lambda: Langevin(sigma_min=2.0, sigma_max=1.0), "sigma_min 2.0 must be below sigma_max 1.0"),
]


@pytest.mark.parametrize(("build", "reason"), NONSENSE)
def test_nonsense_is_refused_by_name(build, reason):
    with pytest.raises(ValueError, match=reason):
        build()


def test_a_patch_size_of_probability_0_is_left_out():
    """Files are merged key by key: it is how the sizes of an earlier file are taken away."""
    assert Crops({56: 0.0, 16: 0.5, 8: 0.5}).largest == 16


def test_the_entries_of_a_mapping_have_its_types():
    with pytest.raises(ValueError, match="is not of type .*Mapping"):
        config.build({"target": "ldm.training.crops.Crops", "params": {"sizes": {"a": 1.0}}})
