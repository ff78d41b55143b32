"""Our own files: training checkpoints, exported folders, fine-tuning from either or from a published layout."""

import hashlib
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import tiny
import torch
import yaml
from foreign import MOST, close, normal, randomise
from published_openai import UNet
from safetensors.torch import load_file
from test_checkpoints_compvis import lightning, model_yaml, small_unet, small_vq

from ldm import checkpoints, config
from ldm.checkpoints.fitting import adapt_channels

ROOT = Path(__file__).parent.parent


def described(channels=1, latent=3, codes=32):
    network = {
        "target": "ldm.networks.unet.UNet",
        "params": {"channels": latent, "widths": [32, 64], "blocks": 1, "attention": [1]},
    }
    stage = {
        "target": "ldm.networks.unet.VQModel",
        "params": {"channels": channels, "widths": [32, 32, 64], "blocks": 1, "codes": codes},
    }
    vp = {
        "network": network,
        "alpha_bar": {"target": "ldm.schedule.Table", "params": {"kind": "scaled_linear"}},
    }
    params = {
        "denoiser": {"target": "ldm.denoiser.VP", "params": vp},
        "shape": [latent, 8, 8],
        "image_channels": channels,
        "scale": 0.7,
        "first_stage": {"target": "ldm.latent.VQ", "params": {"model": stage}},
        "error_variance": 0.01,
        "shift": 0.1,
    }
    return {"target": "ldm.latent.LatentPrior", "params": params}


def trained(path, node):
    """What main.py's callbacks write: raw weights of the LightningModule, averages, the merged configuration."""
    raw = randomise(config.build(node))
    average = randomise(config.build(node), seed=7)
    content = {
        "state_dict": {
            **{f"prior.{k}": v for k, v in raw.state_dict().items()},
            "discriminator.weight": torch.ones(1),
        },
        "ema": {f"prior.{k}": v for k, v in average.state_dict().items()},
        "ema_images": 3,
        "config": {"prior": node, "data": {"x": 1}},
        "optimizer_states": [],
        "epoch": 0,
    }
    torch.save(content, path)
    return raw, average


def same(prior, other):
    x, image = normal(2, 3, 8, 8), normal(1, other.image_channels, 32, 32)
    with torch.no_grad():
        assert close(
            prior.denoise(x, torch.tensor([0.1, 10.0])), other.denoise(x, torch.tensor([0.1, 10.0]))
        )
        assert close(prior.encode(image), other.encode(image)) and close(
            prior.decode(x), other.decode(x)
        )


def test_training_checkpoint_and_export(tmp_path):
    raw, average = trained(tmp_path / "last.ckpt", described())
    prior = checkpoints.load(tmp_path / "last.ckpt")
    same(prior, average)
    same(checkpoints.load(tmp_path / "last.ckpt", ema=False), raw)
    assert not prior.training and not any(p.requires_grad for p in prior.parameters())
    assert (prior.error_variance, prior.scale, prior.shift) == (0.01, 0.7, 0.1)
    folder = checkpoints.export(checkpoints.describe(tmp_path / "last.ckpt"), tmp_path / "model")
    again = checkpoints.load(folder)
    same(again, average)
    assert again.origin == prior.origin and len(prior.origin) == 64
    assert again.origin != checkpoints.load(tmp_path / "last.ckpt", ema=False).origin
    wrapped = checkpoints.load(folder)
    wrapped.denoiser = torch.nn.Sequential(
        wrapped.denoiser
    )  # as --compile does: names change, the loaded weights do not
    assert wrapped.origin == prior.origin
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md",
        "config.yaml",
        "model.safetensors",
    ]
    assert (
        len({p.stat().st_mode for p in folder.iterdir()}) == 1
    )  # whoever may read the card may read the weights
    assert yaml.safe_load((folder / "config.yaml").read_text()) == {"prior": described()}
    with pytest.raises(ValueError, match="takes no settings"):
        checkpoints.load(folder, {"label": 1})
    with pytest.raises(ValueError, match="exists; an export needs a new folder"):
        checkpoints.export(checkpoints.describe(tmp_path / "last.ckpt"), folder)


def test_convert_script(tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import convert_checkpoint
    from convert_checkpoint import main

    torch.save(lightning(small_unet(), small_vq()), tmp_path / "model.ckpt")
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(model_yaml()))
    source, out, half = (str(tmp_path / name) for name in ("model.ckpt", "out", "half"))
    assert main([source, out, "--verify"]) == 0
    assert capsys.readouterr().out.count("relative difference") == 6
    assert (
        hashlib.sha256(Path(source).read_bytes()).hexdigest()
        in (tmp_path / "out" / "README.md").read_text()
    )
    assert main([out, half, "--half", "--verify"]) == 0
    assert {t.dtype for t in load_file(tmp_path / "half" / "model.safetensors").values()} == {
        torch.float16
    }
    capsys.readouterr()
    with monkeypatch.context() as patch:  # NaN is no agreement
        patch.setattr(convert_checkpoint, "outputs", lambda _: {"D": torch.full((1,), torch.nan)})
        assert main([out, str(tmp_path / "again"), "--verify"]) == 2
    assert "D differs from the source by nan" in capsys.readouterr().err
    assert main([out, "/proc/x"]) == 2
    assert capsys.readouterr().err.startswith("convert_checkpoint.py: ")
    assert main([str(tmp_path / "nothing.ckpt"), str(tmp_path / "x")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "no such file" in said
    assert main([source, "--halve"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_first_stage_of_a_prior_and_of_an_autoencoder_run(tmp_path):
    trained(tmp_path / "last.ckpt", described())
    stage = checkpoints.first_stage(tmp_path / "last.ckpt")
    same_stage = {
        k.removeprefix("first_stage."): v
        for k, v in checkpoints.load(tmp_path / "last.ckpt").state_dict().items()
    }
    assert all(torch.equal(v, same_stage[k]) for k, v in stage.state_dict().items())
    node = described()["params"]["first_stage"]
    state = {f"first_stage.{k}": v for k, v in stage.state_dict().items()}
    torch.save(
        {"config": {"first_stage": node}, "state_dict": state, "ema": {}}, tmp_path / "vq.ckpt"
    )
    alone = checkpoints.first_stage(tmp_path / "vq.ckpt")
    assert all(torch.equal(v, alone.state_dict()[k]) for k, v in stage.state_dict().items())
    with pytest.raises(ValueError, match="is an autoencoder, not a prior"):
        checkpoints.load(tmp_path / "vq.ckpt")


def test_fine_tuning_starts_where_the_published_model_is(tmp_path):
    """3 -> 1 channels: the gray network answers what the colour one answers to the replicated image, averaged."""
    source = small_vq()
    torch.save({"state_dict": source.state_dict()}, tmp_path / "vq.ckpt")
    params = model_yaml()["model"]["params"]["first_stage_config"]["params"]
    (tmp_path / "vq.yaml").write_text(yaml.safe_dump({"model": {"params": params}}))
    stage = {
        "target": "ldm.networks.unet.VQModel",
        "params": {"channels": 1, "widths": [32, 64, 64], "blocks": 1, "codes": 32},
    }
    gray = config.build({"target": "ldm.latent.VQ", "params": {"model": stage}})
    changed = checkpoints.initialise(gray, tmp_path / "vq.ckpt")
    layers = (
        "model.encoder.conv_in.weight, model.decoder.conv_out.weight, model.decoder.conv_out.bias"
    )
    assert changed == [f"adapted from 3 image channels to 1: {layers}"]
    assert all(p.requires_grad for p in gray.parameters()) and gray.training
    image = normal(2, 1, 32, 32)
    with torch.no_grad():
        z = source.encode(image.expand(-1, 3, -1, -1))
        assert close(gray.encode(image), z) and close(
            gray.decode(z), source.decode(z).mean(1, keepdim=True)
        )
    wrong = config.build(
        {
            "target": "ldm.latent.VQ",
            "params": {"model": {**stage, "params": {**stage["params"], "codes": 16}}},
        }
    )
    with pytest.raises(
        ValueError,
        match=r"1 of another shape: model.quantize.embedding.weight \[32, 3\] instead of \[16, 3\]",
    ):
        checkpoints.initialise(wrong, tmp_path / "vq.ckpt")


def test_adapted_guided_diffusion_net_keeps_variance_channels_apart():
    colour, gray = (
        UNet(3, 6, 32, (1, 2), 1, (), lambda c: 1),
        UNet(1, 2, 32, (1, 2), 1, (), lambda c: 1),
    )
    state, changed = adapt_channels(randomise(colour).state_dict(), gray.state_dict())
    gray.load_state_dict(state)
    assert changed == ["input_blocks.0.0.weight", "out.2.weight", "out.2.bias"]
    x, t = normal(1, 1, 8, 8), torch.tensor([5.0])
    with torch.no_grad():
        expected = colour(x.expand(-1, 3, -1, -1), t)
        assert close(
            gray.eval()(x, t),
            torch.cat(
                [expected[:, :3].mean(1, keepdim=True), expected[:, 3:].mean(1, keepdim=True)], 1
            ),
        )


def test_fine_tuning_from_a_published_layout_lowers_the_loss(tmp_path):
    torch.save(lightning(small_unet(), small_vq()), tmp_path / "model.ckpt")
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(model_yaml()))
    prior = config.build(checkpoints.describe(tmp_path / "model.ckpt").node)
    assert checkpoints.initialise(prior, tmp_path / "model.ckpt") == []
    optimiser, x, n, losses = (
        torch.optim.Adam(prior.denoiser.parameters(), 1e-3),
        normal(4, 3, 16, 16),
        normal(4, 3, 16, 16, seed=2),
        [],
    )
    for _ in range(8):
        loss = (prior.denoiser(x + 2 * n, torch.full((4,), 2.0)) - x).square().mean()
        optimiser.zero_grad(), loss.backward(), optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_files_that_are_not_whole_models(tmp_path):
    trained(tmp_path / "last.ckpt", described())
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    torch.save({k: v for k, v in content.items() if k != "ema"}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="holds no averaged weights"):
        checkpoints.load(tmp_path / "a.ckpt")
    torch.save({"some": torch.ones(2)}, tmp_path / "b.ckpt")
    with pytest.raises(ValueError, match="the layout of these weights is not known"):
        checkpoints.load(tmp_path / "b.ckpt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no model here"):
        checkpoints.load(tmp_path / "empty")


@pytest.mark.slow
def test_a_gigabyte_peaks_below_1_3_and_loads_within_1_5_times_torch_load(tmp_path):
    """FFHQ ldm-vq-4 at full size, 329 M parameters, 1.3 GB. Seconds of processor time: other programs share this machine."""
    from published_taming import Autoencoder

    with torch.device("meta"):
        unet, first = UNet(3, 3, 224, (1, 2, 3, 4), 2, (1, 2, 3), lambda c: c // 32), Autoencoder()
    for module in (unet, first):
        module.to_empty(device="cpu")
        for parameter in module.parameters():
            torch.nn.init.constant_(parameter, 0.01)
    description = model_yaml(
        image_size=64,
        unet={
            "image_size": 64,
            "model_channels": 224,
            "attention_resolutions": [8, 4, 2],
            "channel_mult": [1, 2, 3, 4],
            "num_head_channels": 32,
        },
    )
    full = {
        "embed_dim": 3,
        "n_embed": 8192,
        "ddconfig": {
            "z_channels": 3,
            "resolution": 256,
            "ch": 128,
            "ch_mult": [1, 2, 4],
            "num_res_blocks": 2,
        },
    }
    description["model"]["params"]["first_stage_config"]["params"] = full
    torch.save(lightning(unet, first), tmp_path / "model.ckpt")
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(description))
    del unet, first
    size = (tmp_path / "model.ckpt").stat().st_size
    program = """
        import json, sys, time, torch
        from ldm import checkpoints
        path, ours = sys.argv[1], sys.argv[2] == "ours"
        import diffusers; diffusers.UNet2DModel, diffusers.VQModel
        before, start = most(), time.process_time()
        prior = checkpoints.load(path) if ours else torch.load(path, weights_only=True)
        print(json.dumps([time.process_time() - start, (most() - before) * 1024]))
    """
    best = {}
    for who in ("torch", "ours") * 2:
        done = subprocess.run(
            [sys.executable, "-c", MOST + textwrap.dedent(program), tmp_path / "model.ckpt", who],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        seconds, grown = json.loads(done.stdout)
        best[who] = min(best.get(who, (seconds, grown)), (seconds, grown))
    print(f"size {size / 1e9:.2f} GB; seconds and peak {best}")
    assert best["ours"][1] <= 1.3 * size and best["ours"][0] <= 1.5 * best["torch"][0]


def test_publishing_a_latent_prior_needs_validation_images(tmp_path, capsys):
    from scripts import publish_prior

    manifests = ["--train", "models/demo-data/test.csv", "--test", "models/demo-data/test.csv"]
    assert (
        publish_prior.main(
            ["models/demo-latent", str(tmp_path / "new"), "--runs", str(tmp_path), *manifests]
        )
        == 2
    )
    assert "needs --validation" in capsys.readouterr().err and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "wrong, says",
    [("--test", "nowhere.csv"), ("--train", "nowhere.csv"), ("--runs", "nowhere.csv")],
)
def test_a_mistake_in_publishing_leaves_no_folder(wrong, says, tmp_path, capsys):
    from scripts import publish_prior

    save = tmp_path / "last.ckpt"
    node = tiny.pixel()
    state = {f"prior.{key}": tensor for key, tensor in config.build(node).state_dict().items()}
    torch.save({"config": {"prior": node}, "state_dict": state, "ema": {}, "global_step": 1}, save)
    (tmp_path / "tensorboard").mkdir()
    tiny.scans(tmp_path)
    (tmp_path / "test.csv").write_text("path,subject\nscan0.png,a\nscan1.png,b\n")
    given = {"--test": tmp_path / "test.csv", "--train": tmp_path / "test.csv", "--runs": tmp_path}
    given[wrong] = tmp_path / "nowhere.csv"
    words = [str(word) for pair in given.items() for word in pair]
    assert publish_prior.main([str(save), str(tmp_path / "new"), *words]) == 2
    assert says in capsys.readouterr().err and not (tmp_path / "new").exists()


def test_weights_lie_alike_whatever_file_they_come_from(tmp_path):
    prior = checkpoints.load(tiny.folder(tmp_path / "model", tiny.pixel()))
    assert {tensor.data_ptr() % 64 for tensor in prior.state_dict().values()} == {0}, (
        "kernels round by alignment"
    )


def test_a_class_conditional_model_that_names_no_class_is_verified(tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import convert_checkpoint

    source = tiny.folder(tmp_path / "model", tiny.pixel(classes=5, groups=8))
    assert convert_checkpoint.main([str(source), str(tmp_path / "out"), "--verify"]) == 0, (
        capsys.readouterr().err
    )
