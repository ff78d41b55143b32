"""MONAI's generative models, under the names of both its releases, against an independent forward, and against MONAI itself
where it is installed (pip install monai; seen to agree with 1.6.1)."""

import pytest
import torch
from foreign import close, count, fits, golden, normal, randomise, scaled_linear, vp
from published_monai import AutoencoderKL, DiffusionModelUNet

from ldm import checkpoints, config
from ldm.checkpoints import monai

STAGE = {
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 1,
    "latent_channels": 3,
    "channels": [16, 32],
    "num_res_blocks": 2,
    "attention_levels": [False, True],
    "norm_num_groups": 16,
    "use_flash_attention": True,
}
UNET = {
    "spatial_dims": 2,
    "in_channels": 3,
    "out_channels": 3,
    "channels": [16, 32, 48],
    "num_res_blocks": 1,
    "norm_num_groups": 16,
    "attention_levels": [False, True, True],
    "num_head_channels": [0, 16, 16],
    "num_class_embeds": None,
}
SCHEDULER = {
    "schedule": "scaled_linear_beta",
    "beta_start": 0.0015,
    "beta_end": 0.0195,
    "num_train_timesteps": 1000,
}


@pytest.mark.parametrize("old", [False, True])
def test_latent_diffusion_bundle(tmp_path, old):
    stage = randomise(AutoencoderKL(1, 3, [16, 32], 2, [False, True], groups=16, old=old))
    unet = randomise(
        DiffusionModelUNet(3, [16, 32, 48], 1, [False, True, True], 16, groups=16, old=old), seed=2
    )
    torch.save(stage.state_dict(), tmp_path / "autoencoder.pt")
    torch.save({"state_dict": unet.state_dict()}, tmp_path / "diffusion.pt")
    settings = {
        "autoencoder": STAGE,
        "diffusion": UNET,
        "scheduler": SCHEDULER,
        "size": 16,
        "scale_factor": 0.5,
        "unit_range": False,
    }
    prior = checkpoints.load(
        tmp_path / "diffusion.pt", settings | {"autoencoder_file": "autoencoder.pt"}
    )
    x, image = normal(2, 3, 16, 16), normal(1, 1, 32, 32)
    for t in (0, 999):
        sigma, expected = vp(unet, x, t, scaled_linear(0.0015, 0.0195))
        with torch.no_grad():
            assert close(prior.denoise(x, sigma), expected)
    with torch.no_grad():
        assert close(prior.encode(image), stage.encode(image) * 0.5) and close(
            prior.decode(x), stage.decode(x / 0.5)
        )
        assert close(
            checkpoints.first_stage(
                tmp_path / "autoencoder.pt", {"autoencoder": STAGE, "unit_range": False}
            ).encode(image),
            stage.encode(image),
        )
    assert prior.image_shape == (1, 32, 32)


def test_networks_of_images_in_the_unit_range(tmp_path):
    """Given and answered in [-1, 1]: x = 2 u - 1 of the network's u, whose noise is half as large."""
    stage = randomise(AutoencoderKL(1, 3, [16, 32], 2, [False, True], groups=16))
    unet = randomise(
        DiffusionModelUNet(3, [16, 32, 48], 1, [False, True, True], 16, groups=16), seed=2
    )
    torch.save(stage.state_dict(), tmp_path / "autoencoder.pt")
    torch.save(unet.state_dict(), tmp_path / "diffusion.pt")
    ours = checkpoints.first_stage(
        tmp_path / "autoencoder.pt", {"autoencoder": STAGE, "unit_range": True}
    )
    image, x = normal(1, 1, 32, 32), normal(2, 3, 16, 16)
    with torch.no_grad():
        assert close(ours.encode(image), stage.encode((image + 1) / 2)) and close(
            ours.decode(x), 2 * stage.decode(x) - 1
        )
    settings = {"diffusion": UNET, "scheduler": SCHEDULER, "size": 16, "unit_range": True}
    prior = checkpoints.load(tmp_path / "diffusion.pt", settings)
    table = scaled_linear(0.0015, 0.0195)
    for t, limit in ((0, prior.sigma_min), (999, prior.sigma_max)):
        sigma, expected = vp(unet, (x + 1) / 2, t, table)
        assert abs(limit / (2 * float(sigma[0])) - 1) < 1e-6
        with torch.no_grad():
            assert close(prior.denoise(x, 2 * sigma), 2 * expected - 1)


def test_a_published_bundle_at_full_size():
    """brats_mri_axial_slices_generative_diffusion of MONAI's model zoo, in the names of the release it was made with."""
    wide = {
        **STAGE,
        "latent_channels": 1,
        "channels": [64, 128, 256],
        "attention_levels": [False] * 3,
        "norm_num_groups": 32,
    }
    deep = {
        **UNET,
        "in_channels": 1,
        "out_channels": 1,
        "channels": [32, 64, 128, 256],
        "num_res_blocks": 2,
    }
    deep |= {
        "attention_levels": [False, True, True, True],
        "num_head_channels": [0, 32, 32, 32],
        "norm_num_groups": 32,
    }
    with torch.device("meta"):
        stage = AutoencoderKL(1, 1, [64, 128, 256], 2, [False] * 3, old=True)
        unet = DiffusionModelUNet(1, [32, 64, 128, 256], 2, [False, True, True, True], 32, old=True)
        ours = config.build(monai.stage(wide, True, "x")), config.build(monai.unet(deep, 64, "x"))
    golden("monai-brats-autoencoder", stage), golden("monai-brats-diffusion", unet)
    assert [count(stage), count(unet)] == [count(one) for one in ours]
    fits(monai.renamed(stage.state_dict(), monai.AUTOENCODER), ours[0])
    fits(monai.renamed(unet.state_dict(), monai.UNET), ours[1])


def test_what_has_no_exact_counterpart_is_refused(tmp_path):
    unet = DiffusionModelUNet(3, [16, 32, 48], 1, [False, True, True], 16, groups=16)
    torch.save(unet.state_dict(), tmp_path / "diffusion.pt")
    for settings, message in [
        (None, "give `diffusion:`"),
        ({"diffusion": UNET, "size": 16}, "give unit_range: true if its images lay in"),
        (
            {"diffusion": UNET | {"num_res_blocks": [1, 1, 2]}, "size": 16},
            "num_res_blocks that differ by level: not supported",
        ),
        (
            {"diffusion": UNET | {"resblock_updown": True}, "size": 16},
            "this kind of DiffusionModelUNet: not supported",
        ),
        ({"diffusion": UNET | {"spatial_dims": 3}, "size": 16}, "only two-dimensional"),
        (
            {"diffusion": UNET | {"channels": [16, 32]}, "size": 16},
            "num_head_channels must have 2 values, one a level",
        ),
        (
            {"diffusion": UNET | {"attention_levels": None}, "size": 16},
            "attention_levels must have 3 values",
        ),
        (
            {"diffusion": UNET | {"num_head_channels": [0, 0, 16]}, "size": 16},
            "must be positive where there is attention",
        ),
        ({"diffusion": UNET | {"layers": 3}, "size": 16}, "unknown setting 'layers'"),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            checkpoints.load(tmp_path / "diffusion.pt", settings)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {
            "num_res_blocks": [1, 2],
            "attention_levels": [True, True],
            "with_encoder_nonlocal_attn": False,
        },
        {
            "channels": [16, 16, 48],
            "attention_levels": [False] * 3,
            "with_decoder_nonlocal_attn": False,
            "norm_eps": 1e-3,
        },
        {"in_channels": 3, "out_channels": 3, "latent_channels": 4, "use_flash_attention": False},
    ],
)
def test_autoencoder_of_monai_itself(tmp_path, changed):
    nets = pytest.importorskip("monai.networks.nets")
    arguments = STAGE | changed
    theirs = randomise(nets.AutoencoderKL(**arguments))
    torch.save(theirs.state_dict(), tmp_path / "autoencoder.pt")
    ours = checkpoints.first_stage(
        tmp_path / "autoencoder.pt", {"autoencoder": arguments, "unit_range": False}
    )
    image = normal(2, arguments["in_channels"], 32, 48)
    with torch.no_grad():
        mean, deviation = theirs.encode(image)
        assert close(ours.encode(image), mean) and close(ours.decode(mean), theirs.decode(mean))


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {
            "num_head_channels": [0, 32, 48]
        },  # one head a level: what MONAI's own bundles and tutorials have
        {"num_head_channels": [0, 8, 24], "num_res_blocks": [2, 2, 2], "norm_eps": 1e-3},
        {
            "attention_levels": [True, False, False],
            "num_head_channels": 16,
            "use_flash_attention": True,
        },
        {
            "channels": [16, 32, 32, 64],
            "attention_levels": [False, False, True, True],
            "num_head_channels": 8,
            "in_channels": 1,
        },
    ],
)
def test_diffusion_network_of_monai_itself(tmp_path, changed):
    nets = pytest.importorskip("monai.networks.nets")
    from monai.networks.schedulers import DDPMScheduler

    arguments = UNET | changed | {"out_channels": changed.get("in_channels", 3)}
    theirs, scheduler = randomise(nets.DiffusionModelUNet(**arguments)), DDPMScheduler(**SCHEDULER)
    torch.save(theirs.state_dict(), tmp_path / "diffusion.pt")
    prior = checkpoints.load(
        tmp_path / "diffusion.pt",
        {"diffusion": arguments, "scheduler": SCHEDULER, "size": 16, "unit_range": False},
    )
    assert close(prior.alpha_bar, scheduler.alphas_cumprod.double())
    x = normal(2, arguments["in_channels"], 16, 24)
    for t in (0, 400, 999):
        sigma, expected = vp(lambda y, time: theirs(y, time), x, t, scaled_linear(0.0015, 0.0195))
        with torch.no_grad():
            assert close(prior.denoise(x, sigma), expected)
