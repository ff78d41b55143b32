"""MONAI's generative models, under the names of both its releases, against an independent forward."""

import pytest
import torch
from foreign import close, normal, randomise, scaled_linear, vp
from published_monai import AutoencoderKL, DiffusionModelUNet

from ldm import checkpoints

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
SCHEDULER = {"schedule": "scaled_linear_beta", "beta_start": 0.0015, "beta_end": 0.0195, "num_train_timesteps": 1000}


@pytest.mark.parametrize("old", [False, True])
def test_latent_diffusion_bundle(tmp_path, old):
    stage = randomise(AutoencoderKL(1, 3, [16, 32], 2, [False, True], groups=16, old=old))
    unet = randomise(DiffusionModelUNet(3, [16, 32, 48], 1, [False, True, True], 16, groups=16, old=old), seed=2)
    torch.save(stage.state_dict(), tmp_path / "autoencoder.pt")
    torch.save({"state_dict": unet.state_dict()}, tmp_path / "diffusion.pt")
    settings = {"autoencoder": STAGE, "diffusion": UNET, "scheduler": SCHEDULER, "size": 16, "scale_factor": 0.5}
    prior = checkpoints.load(tmp_path / "diffusion.pt", settings | {"autoencoder_file": "autoencoder.pt"})
    x, image = normal(2, 3, 16, 16), normal(1, 1, 32, 32)
    for t in (0, 999):
        sigma, expected = vp(unet, x, t, scaled_linear(0.0015, 0.0195))
        with torch.no_grad():
            assert close(prior.denoise(x, sigma), expected)
    with torch.no_grad():
        assert close(prior.encode(image), stage.encode(image) * 0.5) and close(prior.decode(x), stage.decode(x / 0.5))
        assert close(
            checkpoints.first_stage(tmp_path / "autoencoder.pt", {"autoencoder": STAGE}).encode(image), stage.encode(image)
        )
    assert prior.image_shape == (1, 32, 32)


def test_what_has_no_exact_counterpart_is_refused(tmp_path):
    unet = DiffusionModelUNet(3, [16, 32, 48], 1, [False, True, True], 16, groups=16)
    torch.save(unet.state_dict(), tmp_path / "diffusion.pt")
    for settings, message in [
        (None, "give `diffusion:`"),
        (
            {"diffusion": UNET | {"num_head_channels": [0, 8, 16]}, "size": 16},
            "num_head_channels that differ by level: not supported",
        ),
        ({"diffusion": UNET | {"resblock_updown": True}, "size": 16}, "this kind of DiffusionModelUNet: not supported"),
        ({"diffusion": UNET | {"spatial_dims": 3}, "size": 16}, "only two-dimensional"),
        ({"diffusion": UNET | {"channels": [16, 32]}, "size": 16}, "same number of `block_out_channels`"),
        ({"diffusion": UNET | {"layers": 3}, "size": 16}, "unknown setting 'layers'"),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            checkpoints.load(tmp_path / "diffusion.pt", settings)
        assert "\n" not in str(caught.value)
