"""Networks: published sizes, what short specs mean, gradients through everything."""

from pathlib import Path

import pytest
import torch

from ldm import config
from ldm.denoiser import EDM, Prior
from ldm.latent import VQ, LatentPatchPrior
from ldm.networks.edm import SongUNet
from ldm.networks.published import ClassConditioned
from ldm.networks.unet import KLModel, UNet, VQModel
from ldm.patch import PatchPrior
from ldm.training import run

PUBLISHED = {  # facts of the published checkpoints
    "configs/latent-diffusion/ffhq-ldm-vq-4.yaml": ("prior", "denoiser", 274_056_163),
    "configs/latent-diffusion/celebahq-ldm-vq-4.yaml": ("prior", "denoiser", 274_056_163),
    "configs/autoencoder/vq-f4.yaml": ("first_stage", "model", 55_322_782),
    "configs/autoencoder/kl-f8.yaml": ("first_stage", "model", 83_653_863),
    "configs/pixel-diffusion/ffhq-256.yaml": ("prior", "denoiser", 93_563_910),
    "configs/pixel-diffusion/imagenet-256.yaml": ("prior", "denoiser", 552_814_086),
    "configs/patch-diffusion/ct-256.yaml": (
        "prior",
        "denoiser",
        60_483_713,
    ),  # "around 60 M"; 60.48 M by the formulas
}
TRAINED = sorted(
    p
    for kind in ("autoencoder", "latent", "patch", "pixel")
    for p in Path("configs").glob(f"{kind}*/*.yaml")
)


@pytest.mark.parametrize("file", PUBLISHED)
def test_published_sizes(file):
    part, inner, count = PUBLISHED[file]
    with torch.device("meta"):
        built = config.build(config.load([file])[part])
    assert sum(p.numel() for p in getattr(built, inner).parameters()) == count


@pytest.mark.parametrize("file", TRAINED, ids=str)
def test_every_training_configuration_is_built(file):
    """Model and data agree with their classes; so do all of them under the overlay of the published recipe."""
    with torch.device("meta"):
        for files in ([file], [file, "configs/projects/medical_super_resolution.yaml"]):
            module, data = run.assemble(config.load(files))
    assert module.configure_optimizers and data.manifests["train"]
    assert any(p.requires_grad for p in module.parameters())


@pytest.mark.parametrize("model", [VQModel, KLModel])
def test_groups_reach_every_norm(model):
    with torch.device("meta"):
        built = model(1, (32, 64), 1, attention=True, groups=8)
    norms = [module for module in built.modules() if isinstance(module, torch.nn.GroupNorm)]
    assert len(norms) > 10 and {norm.num_groups for norm in norms} == {8}
    assert {
        m.num_groups for m in model(1, (32,), 1).modules() if isinstance(m, torch.nn.GroupNorm)
    } == {32}


def test_latents_of_f4_and_f8():
    with torch.device("meta"):
        image = torch.empty(1, 3, 64, 64)
        assert VQModel().encode(image).latents.shape == (1, 3, 16, 16)
        assert KLModel().encode(image).latent_dist.mode().shape == (1, 4, 8, 8)


@pytest.mark.parametrize("size", [16, 32, 56])
def test_patch_network_takes_every_multiple_of_eight(size):
    network = UNet(3, (32, 32, 32, 32), 1, out=1)
    assert network(torch.zeros(2, 3, size, size), torch.zeros(2)).shape == (2, 1, size, size)


def test_attention_levels():
    with torch.device("meta"):
        plain, attending = UNet(1, (32, 32), 1), UNet(1, (32, 32), 1, attention=(1,))
    assert not any("attentions" in name for name, _ in plain.named_parameters())
    assert {
        n.split(".attentions")[0] for n, _ in attending.named_parameters() if "attentions" in n
    } == {
        "down_blocks.1",
        "mid_block",
        "up_blocks.0",
    }
    with pytest.raises(ValueError, match="attention levels"):
        UNet(1, (32, 32), attention=(2,))


def test_time_embedding_tells_noise_levels_apart():
    """c_noise = ln(sigma)/4 spans 2.6; neighbouring solver levels (5 % apart) must not look alike to the network."""
    torch.manual_seed(0)
    network = UNet(1, (32, 32), 1, time_scale=100)
    levels = torch.tensor([0.002, 0.0021, 0.5, 0.525, 80.0])
    e = network.time_proj(EDM(network).time(levels) * network.time_scale)
    distance = torch.cdist(e, e)
    # |e|^2 = width/2; 5 % in sigma turns the fastest sinusoid by 100 ln(1.05)/4 = 1.2 rad
    assert distance[0, 1] > 0.5 and distance[2, 3] > 0.5
    plain = UNet(1, (32, 32), 1)
    f = plain.time_proj(EDM(plain).time(levels))
    assert torch.cdist(f, f)[0, 1] < 0.02  # what the scale is for


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_input_and_every_weight(checkpointing):
    torch.manual_seed(0)
    network = UNet(1, (32, 32), 1, attention=(1,), classes=2, checkpointing=checkpointing).train()
    x = torch.zeros(2, 1, 8, 8).normal_().requires_grad_()
    network(x, torch.rand(2), torch.tensor([0, 1])).square().sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


CONDITIONAL = {
    "diffusers": lambda: UNet(1, (32,), classes=3),
    "EDM": lambda: SongUNet(1, width=8, multipliers=(1,), blocks=1, classes=3),
    "published latent diffusion": lambda: ClassConditioned(torch.nn.Identity(), 3, 4),
}


@pytest.mark.parametrize("network", CONDITIONAL.values(), ids=CONDITIONAL)
def test_a_label_is_a_class_of_the_network(network):
    prior = Prior(EDM(network()), (1, 8, 8), label=2)
    assert prior.classes == 3 and prior.label == 2
    for label in (3, -1, True, "1", 1.0):
        with pytest.raises(ValueError, match="0 to 2 are allowed"):
            prior.label = label
    with pytest.raises(ValueError, match="unconditional"):
        Prior(EDM(UNet(1, (32,))), (1, 8, 8), label=0)


def test_a_latent_patch_prior_has_the_label_of_its_patches():
    patches = PatchPrior(EDM(UNet(3, (32,), out=1, classes=3)), 1, 8, 6)
    prior = LatentPatchPrior(patches, VQ(VQModel(1, (32, 32), blocks=1, latent=1, codes=4)))
    prior.label = 2
    assert patches.label == prior.label == 2 and prior.classes == 3
