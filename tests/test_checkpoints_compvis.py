"""CompVis latent diffusion files: published layout, random weights, against an independent forward."""

import copy

import pytest
import torch
import yaml
from foreign import close, count, fits, golden, normal, randomise, scaled_linear, vp
from published_openai import UNet
from published_taming import Autoencoder
from torch import nn

from ldm import checkpoints, config
from ldm.checkpoints import compvis, image_autoencoder
from ldm.checkpoints.openai_unet import OpenAIUNet

START, END = 0.0015, 0.0195
FULL = OpenAIUNet(64, 3, 3, 224, (1, 2, 3, 4), 2, (1, 2, 3), head=32)
AUTOENCODER = {
    "embed_dim": 3,
    "n_embed": 32,
    "ddconfig": {
        "double_z": False,
        "z_channels": 3,
        "resolution": 64,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 32,
        "ch_mult": [1, 2, 2],
        "num_res_blocks": 1,
        "attn_resolutions": [],
        "dropout": 0.0,
    },
}


def model_yaml(**changed):
    """The YAML of ffhq-ldm-vq-4 with small numbers."""
    unet = {
        "image_size": 16,
        "in_channels": 3,
        "out_channels": 3,
        "model_channels": 32,
        "attention_resolutions": [4, 2],
        "num_res_blocks": 2,
        "channel_mult": [1, 2, 3],
        "num_head_channels": 16,
    }
    unet |= changed.pop("unet", {})
    params = {
        "linear_start": START,
        "linear_end": END,
        "num_timesteps_cond": 1,
        "log_every_t": 200,
        "timesteps": 1000,
        "first_stage_key": "image",
        "image_size": 16,
        "channels": unet["in_channels"],
        "monitor": "val/loss_simple_ema",
        "unet_config": {
            "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
            "params": unet,
        },
        "first_stage_config": {
            "target": "ldm.models.autoencoder.VQModelInterface",
            "params": {**AUTOENCODER, "lossconfig": {}},
        },
        "cond_stage_config": "__is_unconditional__",
    }
    return {
        "model": {
            "base_learning_rate": 2e-6,
            "target": "ldm.models.diffusion.ddpm.LatentDiffusion",
            "params": params | changed,
        }
    }


def small_unet(**changed):
    given = (
        dict(
            channels=3,
            out=3,
            width=32,
            mult=(1, 2, 3),
            blocks=2,
            attends=(1, 2),
            heads=lambda c: c // 16,
        )
        | changed
    )
    return randomise(UNet(**given))


def small_vq(**changed):
    return randomise(
        Autoencoder(**(dict(ch=32, mult=(1, 2, 2), blocks=1, codes=32) | changed)), seed=5
    )


def lightning(unet, first, start=START, end=END, ema=None):
    """A published .ckpt: Lightning's top level, schedule buffers, averaged weights under names without dots."""
    state = {f"model.diffusion_model.{k}": v for k, v in unet.state_dict().items()}
    if first is not None:
        state |= {f"first_stage_model.{k}": v for k, v in first.state_dict().items()}
    table = scaled_linear(start, end)
    state |= {
        "alphas_cumprod": table.float(),
        "betas": (1 - table / torch.cat([torch.ones(1), table[:-1]])).float(),
    }
    if ema is not None:
        state |= {
            "model_ema." + f"diffusion_model.{k}".replace(".", ""): v
            for k, v in ema.state_dict().items()
        }
        state |= {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7)}
    return {
        "state_dict": state,
        "epoch": 3,
        "global_step": 10,
        "optimizer_states": [{"state": {}}],
        "pytorch-lightning_version": "1.4.2",
    }


def write(folder, content, description):
    torch.save(content, folder / "model.ckpt")
    (folder / "config.yaml").write_text(yaml.safe_dump(description))
    return folder / "model.ckpt"


def agrees(prior, network, table, first, size=16, channels=3, times=(1, 250, 999)):
    x, image = (
        normal(2, channels, size, size),
        normal(2, 3, size * prior.first_stage.factor, size * prior.first_stage.factor, seed=3),
    )
    for t in times:
        sigma, expected = vp(network, x, t, table)
        with torch.no_grad():
            assert close(prior.denoise(x, sigma), expected)
    with torch.no_grad():
        assert close(prior.encode(image), first.encode(image) * prior.scale)
        assert close(prior.decode(x), first.decode(x / prior.scale))


def test_unconditional_vq4_with_averaged_weights(tmp_path):
    unet, first = small_unet(), small_vq()
    average = randomise(copy.deepcopy(unet), seed=9)
    path = write(tmp_path, lightning(unet, first, ema=average), model_yaml())
    agrees(checkpoints.load(path), average, scaled_linear(START, END), first)
    agrees(
        checkpoints.load(path, tmp_path / "config.yaml", ema=False),
        unet,
        scaled_linear(START, END),
        first,
        times=(500,),
    )


def test_first_stage_in_a_file_of_its_own(tmp_path):
    unet, first = small_unet(), small_vq()
    trained = {
        "state_dict": {
            **first.state_dict(),
            "loss.discriminator.main.0.weight": torch.ones(2, 3, 4, 4),
        }
    }
    torch.save(trained, tmp_path / "vq.ckpt")
    description = model_yaml()
    description["model"]["params"]["first_stage_config"]["params"]["ckpt_path"] = (
        "models/first_stage_models/vq-f4/vq.ckpt"
    )
    path = write(tmp_path, lightning(unet, None), description)
    agrees(checkpoints.load(path), unet, scaled_linear(START, END), first, times=(500,))
    (tmp_path / "vq.ckpt").unlink()
    with pytest.raises(ValueError, match="first stage .* is not there"):
        checkpoints.load(path)


def test_churches_kl8_scale_in_the_file_heads_by_number(tmp_path):
    unet = small_unet(
        channels=4, out=4, attends=(0, 1), heads=lambda c: 4, scale_shift=True, resampling=True
    )
    first = small_vq(codes=None, z=4, embed=4, mult=(1, 1, 2, 2))
    unconditional = {
        "in_channels": 4,
        "out_channels": 4,
        "attention_resolutions": [1, 2],
        "num_heads": 4,
        "num_head_channels": -1,
        "use_scale_shift_norm": True,
        "resblock_updown": True,
        "image_size": 8,
    }
    stage = {
        "embed_dim": 4,
        "ddconfig": {
            **AUTOENCODER["ddconfig"],
            "double_z": True,
            "z_channels": 4,
            "ch_mult": [1, 1, 2, 2],
        },
    }
    description = model_yaml(
        unet=unconditional,
        linear_end=0.0155,
        scale_by_std=True,
        image_size=8,
        first_stage_config={"target": "ldm.models.autoencoder.AutoencoderKL", "params": stage},
    )
    content = lightning(unet, first, end=0.0155)
    content["state_dict"]["scale_factor"] = torch.tensor(0.25)
    prior = checkpoints.load(write(tmp_path, content, description))
    assert prior.scale == 0.25
    agrees(prior, unet, scaled_linear(START, 0.0155), first, size=8, channels=4)


def test_class_conditional_cin256(tmp_path):
    unet, table = small_unet(heads=lambda c: 1, context=24), randomise(nn.Embedding(11, 24), seed=4)
    first = small_vq()
    across = {
        "num_heads": 1,
        "use_spatial_transformer": True,
        "transformer_depth": 1,
        "context_dim": 24,
        "num_head_channels": -1,
    }
    description = model_yaml(
        unet=across,
        cond_stage_config={
            "target": "ldm.modules.encoders.modules.ClassEmbedder",
            "params": {"n_classes": 11, "embed_dim": 24, "key": "class_label"},
        },
    )
    content = lightning(unet, first)
    content["state_dict"]["cond_stage_model.embedding.weight"] = table.weight.detach()
    path = write(tmp_path, content, description)
    for label in (None, 3):
        prior = checkpoints.load(path, None if label is None else description | {"label": label})
        vector = table.weight[10 if label is None else label].detach().expand(2, 1, -1)
        agrees(
            prior,
            lambda x, t, vector=vector: unet(x, t, context=vector),
            scaled_linear(START, END),
            first,
            times=(400,),
        )
    with pytest.raises(ValueError, match="label 11 must lie in 0..10"):
        checkpoints.load(path, description | {"label": 11})


@pytest.mark.parametrize(
    "codes,embed,mult,attends,middle",
    [
        (32, 3, (1, 2, 2), (), True),
        (32, 3, (1, 2, 2), (), False),
        (64, 4, (1, 2, 2, 2), (1, 3), True),
        (None, 16, (1, 1, 2, 2, 2), (4,), True),
    ],
)
def test_autoencoders_alone(tmp_path, codes, embed, mult, attends, middle):
    first = small_vq(codes=codes, z=embed, embed=embed, mult=mult, attends=attends, middle=middle)
    net = {
        **AUTOENCODER["ddconfig"],
        "z_channels": embed,
        "ch_mult": list(mult),
        "attn_resolutions": [64 >> i for i in attends],
        "attn_type": "vanilla" if middle else "none",
    }
    params = {"embed_dim": embed, "ddconfig": net, "monitor": "val/rec_loss"} | (
        {"n_embed": codes} if codes else {}
    )
    path = write(
        tmp_path,
        {"state_dict": first.state_dict()},
        {"model": {"target": "ldm.models.autoencoder.X", "params": params}},
    )
    stage = checkpoints.first_stage(path)
    image = normal(2, 3, 64, 64)
    with torch.no_grad():
        z = first.encode(image)
        assert close(stage.encode(image), z)
        assert close(stage.decode(z), first.decode(z))
    with pytest.raises(ValueError, match="is an autoencoder, not a prior"):
        checkpoints.load(path)


def test_the_time_fed_is_the_inverse_of_the_models_own_table(tmp_path):
    path = write(tmp_path, lightning(small_unet(), small_vq()), model_yaml())
    prior, table = checkpoints.load(path), scaled_linear(START, END)
    fed = prior.denoiser.time(((1 - table) / table).sqrt())
    assert (
        fed - torch.arange(1000)
    ).abs().max() < 1e-8  # float64; sigma's relative spacing is at least 1e-3 per step


def test_full_size_layouts_and_counts():
    with torch.device("meta"):
        source, first = (
            UNet(3, 3, 224, (1, 2, 3, 4), 2, (1, 2, 3), lambda c: c // 32),
            Autoencoder(),
        )
        kl = Autoencoder(mult=(1, 2, 4, 4), z=4, embed=4, codes=None)
        target = config.build(FULL.node())
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
        node, state = image_autoencoder.describe(full, first.state_dict(), "vq-f4")
        stage = config.build(node)
    golden("ldm-vq-4-unet", source), golden("vq-f4", first), golden("kl-f8", kl)
    assert count(source) == count(target) == 274_056_163 and len(source.state_dict()) == 368
    assert count(first) == count(stage) == 55_322_782 and count(kl) == 83_653_863
    fits(FULL.weights(source.state_dict()), target), fits(state, stage)


@pytest.mark.parametrize(
    "name,z,codes,mult,attends",
    [
        ("vq-f8", 4, 16384, (1, 2, 2, 4), [32]),
        ("kl-f4", 3, None, (1, 2, 4), []),
        ("kl-f16", 16, None, (1, 1, 2, 2, 4), [16]),
        ("kl-f32", 64, None, (1, 1, 2, 2, 4, 4), [16, 8]),
    ],
)
def test_first_stages_at_full_size(name, z, codes, mult, attends):
    """The YAMLs of the published archives; nothing is missing and nothing is left."""
    net = {
        "z_channels": z,
        "resolution": 256,
        "ch": 128,
        "ch_mult": list(mult),
        "num_res_blocks": 2,
    }
    described = {"embed_dim": z, "ddconfig": {**net, "attn_resolutions": attends}} | (
        {"n_embed": codes} if codes else {}
    )
    levels = tuple(i for i in range(len(mult)) if 256 >> i in attends)
    with torch.device("meta"):
        source = Autoencoder(mult=mult, z=z, embed=z, codes=codes, attends=levels)
        node, state = image_autoencoder.describe(described, source.state_dict(), name)
        fits(state, config.build(node))
    golden(name, source)


def test_what_disagrees_is_one_line(tmp_path):
    unet, first = small_unet(), small_vq()
    content = lightning(unet, first, ema=unet)
    for change, message in [
        (
            lambda s: [
                s.pop(f"{name}bias")
                for name in ("model.diffusion_model.out.2.", "model_ema.diffusion_modelout2")
            ],
            "missing: .*conv_out.bias",
        ),
        (
            lambda s: s.pop("model.diffusion_model.out.2.bias"),
            "no raw ones: diffusion_modelout2bias",
        ),
        (
            lambda s: s.update({"model.diffusion_model.extra.weight": torch.ones(2)}),
            "averaged weights are missing",
        ),
        (lambda s: s.update({"surprise": torch.ones(2)}), "unexpected tensors: surprise"),
        (
            lambda s: s.update({"alphas_cumprod": s["alphas_cumprod"] * 1.01}),
            "the noise table in the file is not the one described",
        ),
        (lambda s: s.pop("model_ema.diffusion_modelout2bias"), "averaged weights are missing"),
        (
            lambda s: s.update({"model_ema.diffusion_modelextra": torch.ones(2)}),
            "1 averaged weights have no raw ones",
        ),
    ]:
        broken = {**content, "state_dict": dict(content["state_dict"])}
        change(broken["state_dict"])
        with pytest.raises(ValueError, match=message) as caught:
            checkpoints.load(write(tmp_path, broken, model_yaml()))
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="unknown setting 'num_res_blocksx'"):
        checkpoints.load(write(tmp_path, content, model_yaml(unet={"num_res_blocksx": 2})))
    (tmp_path / "config.yaml").unlink()
    with pytest.raises(ValueError, match="needs its YAML"):
        checkpoints.load(tmp_path / "model.ckpt")


def test_targets_of_a_foreign_yaml_are_never_imported(tmp_path, monkeypatch):
    description = model_yaml()
    description["model"]["target"] = description["model"]["params"]["unet_config"]["target"] = (
        "torch.hub.load"
    )
    monkeypatch.setattr(torch.hub, "load", lambda *a, **k: pytest.fail("executed"))
    assert compvis.recognises(lightning(small_unet(), None)["state_dict"])
    checkpoints.load(write(tmp_path, lightning(small_unet(), small_vq()), description))
