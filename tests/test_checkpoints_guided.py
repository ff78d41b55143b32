"""guided-diffusion files: published layouts with random weights against an independent forward."""

import pytest
import torch
from foreign import close, count, fits, golden, linear, normal, randomise, vp
from published_openai import UNet

from ldm import checkpoints, config
from ldm.checkpoints import guided_diffusion
from ldm.checkpoints.options import Options

FLAGS = {
    "image_size": 32,
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": "1,2,2",
    "learn_sigma": True,
    "class_cond": False,
    "use_checkpoint": False,
    "attention_resolutions": "16,8",
    "num_heads": 4,
    "num_head_channels": 16,
    "num_heads_upsample": -1,
    "use_scale_shift_norm": True,
    "dropout": 0.0,
    "resblock_updown": True,
    "use_fp16": False,
    "use_new_attention_order": False,
    "model_path": "models/ffhq_10m.pt",
}  # the keys of DPS's ffhq_model_config.yaml


def net(**changed):
    given = (
        dict(
            channels=3,
            out=6,
            width=32,
            mult=(1, 2, 2),
            blocks=1,
            attends=(1, 2),
            heads=lambda c: c // 16,
            scale_shift=True,
            resampling=True,
        )
        | changed
    )
    return randomise(UNet(**given))


def load(tmp_path, network, **flags):
    torch.save(
        network.state_dict(),
        tmp_path / "net.pt",
        _use_new_zipfile_serialization=flags.pop("zipped", True),
    )
    return checkpoints.load(tmp_path / "net.pt", FLAGS | flags)


def agrees(prior, network, table, times=(0, 250, 999)):
    x = normal(2, 3, 32, 32)
    for t in times:
        sigma, expected = vp(network, x, t, table)
        with torch.no_grad():
            assert close(prior.denoise(x, sigma), expected)


@pytest.mark.parametrize("order", ["legacy", "new"])
def test_attention_orders_and_learned_variance(tmp_path, order):
    network = net(order=order)
    agrees(
        load(tmp_path, network, use_new_attention_order=order == "new"), network, linear(1e-4, 0.02)
    )
    wrong = load(tmp_path, network, use_new_attention_order=order != "new")
    x = normal(1, 3, 32, 32)
    sigma, expected = vp(network, x, 250, linear(1e-4, 0.02))
    with torch.no_grad():
        assert not close(
            wrong.denoise(x, sigma), expected
        )  # plausible-looking garbage is what a plain split would give


def test_files_of_torch_before_1_6(tmp_path):
    network = net()
    agrees(load(tmp_path, network, zipped=False), network, linear(1e-4, 0.02), times=(100,))


def test_convolution_resampling_heads_by_number_and_4000_steps(tmp_path):
    network = net(out=3, resampling=False, scale_shift=False, heads=lambda c: 4)
    flags = dict(
        learn_sigma=False,
        resblock_updown=False,
        use_scale_shift_norm=False,
        num_head_channels=-1,
        diffusion_steps=4000,
    )
    agrees(load(tmp_path, network, **flags), network, linear(0.25e-4, 0.005, 4000), times=(0, 3999))


def test_first_width_that_is_not_the_time_width(tmp_path):
    network = net(width=64, mult=(0.5, 1, 1), attends=(2,))
    agrees(
        load(tmp_path, network, num_channels=64, channel_mult="0.5,1,1", attention_resolutions="8"),
        network,
        linear(1e-4, 0.02),
        (100,),
    )


def test_a_single_resolution_as_yaml_reads_it(tmp_path):
    network = net(attends=(1,))
    agrees(
        load(tmp_path, network, attention_resolutions=16), network, linear(1e-4, 0.02), times=(100,)
    )


def test_class_conditional(tmp_path):
    network = net(classes=10)
    prior = load(tmp_path, network, class_cond=True, label=7)
    agrees(
        prior,
        lambda x, t: network(x, t, torch.full((len(x),), 7)),
        linear(1e-4, 0.02),
        times=(250,),
    )
    with pytest.raises(ValueError, match=r"needs `label: 0..9`"):
        load(tmp_path, network, class_cond=True)
    with pytest.raises(ValueError, match="class_cond disagrees"):
        load(tmp_path, network)


def test_unknown_shapes_ask_for_options(tmp_path):
    torch.save(net().state_dict(), tmp_path / "net.pt")
    with pytest.raises(ValueError, match="give its options"):
        checkpoints.load(tmp_path / "net.pt")
    with pytest.raises(
        ValueError, match="unknown setting 'num_chanels'; did you mean 'num_channels'"
    ):
        checkpoints.load(tmp_path / "net.pt", {**FLAGS, "num_chanels": 3})


@pytest.mark.parametrize(
    "name,parameters,shape",
    [
        ("guided-diffusion-ffhq", 93_563_910, (128, 1, (4,))),
        ("guided-diffusion-imagenet", 552_814_086, (256, 2, (3, 4, 5))),
    ],
)
def test_published_files_are_recognised_at_full_size(name, parameters, shape):
    width, blocks, attends = shape
    with torch.device("meta"):
        source = UNet(
            3,
            6,
            width,
            (1, 1, 2, 2, 4, 4),
            blocks,
            attends,
            lambda c: c // 64,
            scale_shift=True,
            resampling=True,
        )
    golden(name, source)
    state = source.state_dict()
    key = (width, len({k.split(".")[1] for k in state if k.startswith("input_blocks.")}), 0)
    unet = guided_diffusion.network(Options(guided_diffusion.PUBLISHED[key], "x"), state)
    with torch.device("meta"):
        target = config.build(unet.node())
    assert count(source) == count(target) == parameters
    fits(unet.weights(state), target)
