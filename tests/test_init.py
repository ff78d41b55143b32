# ruff: noqa: F811 (a fixture is imported)
"""Fine-tuning through main.py --init: files in the published layouts, random weights in them; their losses fall."""

import pytest
import test_checkpoints_compvis as compvis
import torch
import yaml
from foreign import randomise
from published_openai import UNet
from runs import CROPS, KINDS, arguments, data, last, trainable, written  # noqa: F401 (data is a fixture)

import main
from ldm import checkpoints, config

VQ_PARAMS = {"widths": [32, 64, 64], "blocks": 1, "latent": 3, "codes": 32}
STAGE = {
    "target": "ldm.latent.VQ",
    "params": {
        "model": {"target": "ldm.networks.unet.VQModel", "params": {"channels": 3, **VQ_PARAMS}}
    },
}
NETWORK = {
    "target": "ldm.networks.unet.UNet",
    "params": {"channels": 3, "widths": [32, 64, 96], "blocks": 2, "attention": [1, 2], "head": 16},
}
TABLE = {"target": "ldm.schedule.Table", "params": {"kind": "scaled_linear"}}
LATENT = {
    "target": "ldm.latent.LatentPrior",
    "params": {
        "denoiser": {
            "target": "ldm.denoiser.VP",
            "params": {"network": NETWORK, "alpha_bar": TABLE},
        },
        "shape": [3, 16, 16],
        "first_stage": STAGE,
        "image_channels": 3,
    },
}
CODEBOOK = {"target": "ldm.training.bottleneck.Codebook", "params": {"codes": 32}}
PIXEL, PATCH = "training.diffusion.PixelDiffusion", "training.diffusion.PatchDiffusion"
PUBLISHED = {
    "ldm": trainable("prior", LATENT, "latent_diffusion.LatentDiffusion"),
    "vq-f4": trainable("first_stage", STAGE, "autoencoder.Autoencoder", bottleneck=CODEBOOK),
}


def trained(data, where, kind: str, source, *more: str) -> list[float]:
    """The training losses of a run that starts from `source`."""
    assert (
        main.main(
            [
                *arguments(data, where, kind, *more),
                "--init",
                str(source),
                "--log_every_n_steps",
                "1",
            ]
        )
        == 0
    )
    return written(where, kind, "train/l1" if kind == "vq-f4" else "train/loss")


@pytest.fixture
def published(monkeypatch):
    for kind, node in PUBLISHED.items():
        monkeypatch.setitem(KINDS, kind, node)


@pytest.mark.parametrize("channels", [3, 1])
def test_latent_diffusion_from_a_compvis_file(channels, data, tmp_path, published, capsys):
    """On three channels as it is; on one channel with the first stage's first and last layer adapted, and said so."""
    unet, first = compvis.small_unet(), compvis.small_vq()
    source = compvis.write(tmp_path, compvis.lightning(unet, first, ema=unet), compvis.model_yaml())
    more = [
        "data.params.size=64",
        f"data.params.channels={channels}",
        f"prior.params.image_channels={channels}",
    ]
    more += [
        f"prior.params.first_stage.params.model.params.channels={channels}",
        "--max_steps",
        "24",
    ]
    losses = trained(data, tmp_path, "ldm", source, *more)
    assert sum(losses[-6:]) < 0.8 * sum(losses[:6])
    said = capsys.readouterr().out
    assert (
        "adapted from 3 image channels to 1: first_stage.model.encoder.conv_in.weight" in said
    ) == (channels == 1)
    state, key = (
        last(tmp_path, "ldm")["state_dict"],
        "prior.first_stage.model.encoder.mid_block.resnets.0.conv1.weight",
    )
    assert torch.equal(state[key], first.encoder.mid.block_1.conv1.weight)  # frozen


def test_autoencoder_from_a_taming_file(data, tmp_path, published):
    first = compvis.small_vq()
    description = {
        "model": {"target": "taming.models.vqgan.VQModel", "params": compvis.AUTOENCODER}
    }
    source = compvis.write(tmp_path, {"state_dict": first.state_dict()}, description)
    more = [
        "data.params.size=32",
        "first_stage.params.model.params.channels=1",
        "--max_steps",
        "24",
    ]
    losses = trained(data, tmp_path, "vq-f4", source, *more)
    assert sum(losses[-6:]) < 0.8 * sum(losses[:6])


@pytest.mark.slow
def test_pixel_diffusion_from_a_guided_diffusion_file(data, tmp_path, monkeypatch):
    """The 94 million weights of FFHQ's layout, which is known by its shapes, on one channel of 32 x 32."""
    net = randomise(
        UNet(
            3,
            6,
            128,
            (1, 1, 2, 2, 4, 4),
            1,
            (4,),
            lambda c: c // 64,
            scale_shift=True,
            resampling=True,
        )
    )
    torch.save(net.state_dict(), tmp_path / "ffhq_10m.pt")
    del net
    with open("configs/pixel-diffusion/ffhq-256.yaml") as file:
        node = {
            key: value for key, value in yaml.safe_load(file).items() if key in ("prior", "model")
        }
    monkeypatch.setitem(KINDS, "guided", node)
    more = [
        "prior.params.shape=[1,32,32]",
        "data.params.size=32",
        "--max_steps",
        "10",
        "model.params.optimiser.params.lr=1.0e-4",
    ]
    more += [
        f"prior.params.denoiser.params.network.params.{k}={v}"
        for k, v in (("in_channels", 1), ("out_channels", 2))
    ]
    losses = trained(
        data,
        tmp_path,
        "guided",
        tmp_path / "ffhq_10m.pt",
        "model.params.optimiser.params.warmup=0",
        *more,
    )
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


def test_what_does_not_fit_is_one_line(data, tmp_path, published, capsys):
    source = compvis.write(
        tmp_path, compvis.lightning(compvis.small_unet(), compvis.small_vq()), compvis.model_yaml()
    )
    wrong = arguments(
        data,
        tmp_path,
        "ldm",
        "--init",
        str(source),
        "prior.params.denoiser.params.network.params.blocks=1",
    )
    assert main.main(wrong) == 2
    assert "does not fit the model" in capsys.readouterr().err


def test_weights_that_mean_something_else_here(data, tmp_path, capsys):
    """Of the same shapes, so that nothing would show but a bad result; a scale that training estimates is only remarked."""
    network = "prior.params.denoiser.params"
    assert (
        main.main(
            arguments(
                data, tmp_path / "source", "latent", "--max_steps", "1", f"{network}.predicts=v"
            )
        )
        == 0
    )
    source = tmp_path / "source" / "p" / "latent" / "checkpoints" / "last.ckpt"
    target = arguments(
        data, tmp_path / "target", "latent", "--max_steps", "1", "--init", str(source)
    )
    other = [f"{network}.alpha_bar.params.kind=cosine", f"{network}.network.params.groups=8"]
    assert main.main([*target, *other, "model.params.estimate_scale=false"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    for difference in (
        "denoiser.predicts v instead of eps",
        "alpha_bar is another table",
        "num_groups 32 instead of 8",
        "scale ",
        "shift ",
    ):
        assert difference in line
    sized = [
        "prior.params.sigma_max=20.0",
        f"{network}.network.params.dropout=0.1",
        "prior.params.error_variance=0.5",
    ]
    assert main.main([*target, f"{network}.predicts=v", *sized]) == 0
    scale = torch.load(source, weights_only=True)["config"]["prior"]["params"]["scale"]
    assert f"; scale {scale} instead of 1.0, to be estimated" in capsys.readouterr().out


def test_a_first_stage_of_other_groups(data, tmp_path, capsys):
    assert main.main(arguments(data, tmp_path, "autoencoder", "--max_steps", "1")) == 0
    weights = f"first_stage_weights={tmp_path}/p/autoencoder/checkpoints/last.ckpt"
    groups = "prior.params.first_stage.params.model.params.groups=8"
    assert main.main(arguments(data, tmp_path, "latent", "--max_steps", "1", weights, groups)) == 2
    assert "num_groups 32 instead of 8" in capsys.readouterr().err
    for kind in ("pixel", "autoencoder"):
        assert main.main(arguments(data, tmp_path / kind, kind, "--max_steps", "1", weights)) == 2
        assert "only a latent prior has a first stage" in capsys.readouterr().err


def test_a_patch_prior_begins_as_the_pixel_prior_it_comes_from(data, tmp_path, monkeypatch, capsys):
    """Positions have weights of zero at first, and learn; other things that are missing are still refused."""
    network = {
        "target": "ldm.networks.residual_unet.ResidualUNet",
        "params": {"channels": 1, "widths": [8, 12], "blocks": 1},
    }
    placed = {**network, "params": {**network["params"], "positions": 2}}
    pixel = {
        "denoiser": {"target": "ldm.denoiser.EDM", "params": {"network": network}},
        "shape": [1, 16, 16],
    }
    patch = {
        "denoiser": {"target": "ldm.denoiser.EDM", "params": {"network": placed}},
        "channels": 1,
        "size": 16,
        "patch": 8,
    }
    monkeypatch.setitem(
        KINDS, "pixel", trainable("prior", {"target": "ldm.denoiser.Prior", "params": pixel}, PIXEL)
    )
    node = {"target": "ldm.patch.PatchPrior", "params": patch}
    monkeypatch.setitem(KINDS, "patch", trainable("prior", node, PATCH, crops=CROPS))
    assert main.main(arguments(data, tmp_path, "pixel", "--max_steps", "8")) == 0
    source = tmp_path / "p" / "pixel" / "checkpoints" / "last.ckpt"
    begun = config.build({"target": "ldm.patch.PatchPrior", "params": patch})
    said = checkpoints.initialise(begun, source)
    assert said == ["positions begin with zero weights: denoiser.network.place.weight"]
    x, place = torch.randn(2, 1, 8, 8), torch.randn(2, 2, 8, 8)
    expected = checkpoints.load(source).denoiser(x, torch.ones(2))
    assert torch.equal(begun.denoiser(x, torch.ones(2), None, place), expected)
    trained(data, tmp_path, "patch", source, "--max_steps", "3")
    assert (
        last(tmp_path, "patch")["state_dict"]["prior.denoiser.network.place.weight"].abs().sum() > 0
    )
    narrow = ["--name", "other", "prior.params.denoiser.params.network.params.blocks=2"]
    assert main.main([*arguments(data, tmp_path, "patch", *narrow), "--init", str(source)]) == 2
    assert "missing" in capsys.readouterr().err
