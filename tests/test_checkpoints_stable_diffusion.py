"""Stable Diffusion 1 and 2 in CompVis's layout and as diffusers folders, narrow copies with random weights."""

import diffusers
import pytest
import torch
from foreign import close, count, fits, golden, normal, randomise, scaled_linear, vp
from published_clip import HuggingFace, OpenCLIP
from published_openai import UNet
from published_taming import Autoencoder
from safetensors.torch import save_file

from ldm import checkpoints, config
from ldm.checkpoints import stable_diffusion
from ldm.checkpoints.openai_unet import OpenAIUNet

EMPTY_1 = torch.tensor([[49406] + [49407] * 76])  # OpenAI's tokenizer pads with the end token
EMPTY_2 = torch.tensor([[49406, 49407] + [0] * 75])  # OpenCLIP's with zero


@pytest.fixture(scope="module")
def narrow():
    """Both versions, 32 channels wide where the published nets have 320, attending to the published widths of text."""
    first = randomise(Autoencoder(ch=32, mult=(1, 2, 4, 4), z=4, embed=4, codes=None), seed=2)
    one = randomise(UNet(4, 4, 32, (1, 2, 4, 4), 2, (0, 1, 2), lambda c: 8, context=768))
    two = randomise(
        UNet(4, 4, 64, (1, 2, 4, 4), 2, (0, 1, 2), lambda c: c // 64, context=1024, linear=True)
    )
    return (
        first,
        one,
        two,
        randomise(HuggingFace(2, 768), seed=3),
        randomise(OpenCLIP(3, 1024), seed=4),
    )


@pytest.fixture
def thin(monkeypatch):
    """Tells the loader of the narrow autoencoder; nothing else about Stable Diffusion is width-specific."""
    kl = stable_diffusion.KL_F8
    monkeypatch.setitem(kl, "ddconfig", {**kl["ddconfig"], "ch": 32})


def state_dict(unet, first, text, prefix):
    return {
        **{f"model.diffusion_model.{k}": v for k, v in unet.state_dict().items()},
        **{f"first_stage_model.{k}": v for k, v in first.state_dict().items()},
        **{f"cond_stage_model.{prefix}.{k}": v.contiguous() for k, v in text.state_dict().items()},
        "alphas_cumprod": scaled_linear(0.00085, 0.012).float(),
    }


def agrees(prior, unet, text, first, predicts="eps", guidance=None):
    x, image, table = normal(2, 4, 8, 8), normal(1, 3, 64, 64), scaled_linear(0.00085, 0.012)
    context = text.expand(2, -1, -1)
    for t in (0, 999):
        sigma, expected = vp(lambda y, time: unet(y, time, context=context), x, t, table, predicts)
        with torch.no_grad():
            assert close(prior.denoise(x, sigma), expected)
    with torch.no_grad():
        assert prior.scale == 0.18215 and close(prior.encode(image), first.encode(image) * 0.18215)
        assert close(prior.decode(x), first.decode(x / 0.18215))


def test_version_1_with_its_own_text_encoder(tmp_path, narrow, thin):
    first, unet, _, text, _ = narrow
    save_file(state_dict(unet, first, text, "transformer"), tmp_path / "v1-5.safetensors")
    with torch.no_grad():
        empty = text(EMPTY_1)
    agrees(checkpoints.load(tmp_path / "v1-5.safetensors", {"image_size": 64}), unet, empty, first)


def test_version_1_with_a_given_embedding(tmp_path, narrow, thin):
    first, unet, _, text, _ = narrow
    state = {
        k: v
        for k, v in state_dict(unet, first, text, "transformer").items()
        if not k.startswith("cond_stage")
    }
    torch.save({"state_dict": state}, tmp_path / "v1.ckpt")
    with pytest.raises(ValueError, match="holds no text encoder; give `embedding`"):
        checkpoints.load(tmp_path / "v1.ckpt")
    given = normal(77, 768, seed=8)
    save_file({"text": given}, tmp_path / "prompt.safetensors")
    agrees(
        checkpoints.load(tmp_path / "v1.ckpt", {"embedding": str(tmp_path / "prompt.safetensors")}),
        unet,
        given[None],
        first,
    )


def test_guidance(tmp_path, narrow, thin):
    first, unet, _, text, _ = narrow
    torch.save({"state_dict": state_dict(unet, first, text, "transformer")}, tmp_path / "v1.ckpt")
    given = normal(77, 768, seed=8)
    save_file({"text": given}, tmp_path / "prompt.safetensors")
    prior = checkpoints.load(
        tmp_path / "v1.ckpt", {"embedding": str(tmp_path / "prompt.safetensors"), "guidance": 7.5}
    )
    with torch.no_grad():
        empty, context = text(EMPTY_1).expand(2, -1, -1), given.expand(2, -1, -1)

    def guided(x, t):
        return unet(x, t, context=empty) + 7.5 * (
            unet(x, t, context=context) - unet(x, t, context=empty)
        )

    x = normal(2, 4, 8, 8)
    sigma, expected = vp(guided, x, 500, scaled_linear(0.00085, 0.012))
    with torch.no_grad():
        assert close(prior.denoise(x, sigma), expected)


def test_version_2_predicting_v(tmp_path, narrow, thin):
    first, _, unet, _, text = narrow
    torch.save({"state_dict": state_dict(unet, first, text, "model")}, tmp_path / "v2.ckpt")
    with pytest.raises(ValueError, match="give `predicts: eps` .base. or `v`"):
        checkpoints.load(tmp_path / "v2.ckpt")
    with torch.no_grad():
        empty = text(EMPTY_2)
    agrees(checkpoints.load(tmp_path / "v2.ckpt", {"predicts": "v"}), unet, empty, first, "v")


def test_full_size_counts():
    published = {
        "stable-diffusion-1-unet": (
            859_520_964,
            dict(heads=8, context=768),
            (lambda c: 8, 768, False),
        ),
        "stable-diffusion-2-unet": (
            865_910_724,
            dict(head=64, context=1024, linear=True),
            (lambda c: c // 64, 1024, True),
        ),
    }
    for name, (parameters, settings, (heads, context, linear)) in published.items():
        with torch.device("meta"):
            source = UNet(
                4, 4, 320, (1, 2, 4, 4), 2, (0, 1, 2), heads, context=context, linear=linear
            )
            unet = OpenAIUNet(64, 4, 4, 320, (1, 2, 4, 4), 2, (0, 1, 2), **settings)
            target = config.build(unet.node())
        golden(name, source)
        assert count(source) == count(target) == parameters
        fits(unet.weights(source.state_dict()), target)
    with torch.device("meta"):
        source = UNet(3, 3, 192, (1, 2, 3, 5), 2, (1, 2, 3), lambda c: 1, context=512)
        unet = OpenAIUNet(64, 3, 3, 192, (1, 2, 3, 5), 2, (1, 2, 3), heads=1, context=512)
    golden("cin256-v2-unet", source)
    with torch.device("meta"):
        target = config.build(unet.node())
    assert count(source) == count(target) == 400_920_579
    fits(unet.weights(source.state_dict()), target)


def test_full_size_text_encoders():
    with torch.device("meta"):
        one, two = HuggingFace(12, 768), OpenCLIP(24, 1024)
    golden("clip-vit-l-14-text", one), golden("open-clip-vit-h-14-text", two)
    assert count(one) == 123_060_480  # of CLIP ViT-L/14's text half, without its projection


def save(model, folder):
    randomise(model).save_pretrained(folder)
    return model


def pipeline(folder, kind, scheduler, **models):
    scheduler.save_pretrained(folder / "scheduler")
    for name, model in models.items():
        save(model, folder / name)
    (folder / "model_index.json").write_text(
        f'{{"_class_name": "{kind}", "_diffusers_version": "0.30.0"}}'
    )
    return folder


UNET = dict(
    sample_size=8,
    block_out_channels=(32, 64),
    layers_per_block=1,
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
)
STAGE = dict(
    block_out_channels=(32, 32, 64),
    layers_per_block=1,
    down_block_types=("DownEncoderBlock2D",) * 3,
    up_block_types=("UpDecoderBlock2D",) * 3,
)


def test_diffusers_ldm_pipeline(tmp_path):
    unet, vq = (
        diffusers.UNet2DModel(**UNET),
        diffusers.VQModel(**STAGE, latent_channels=3, num_vq_embeddings=16, scaling_factor=0.5),
    )
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear"
    )
    prior = checkpoints.load(pipeline(tmp_path, "LDMPipeline", scheduler, unet=unet, vqvae=vq))
    x, image = normal(2, 3, 8, 8), normal(1, 3, 32, 32)
    sigma, expected = vp(lambda y, t: unet(y, t).sample, x, 500, scaled_linear(0.0015, 0.0195))
    with torch.no_grad():
        assert close(prior.denoise(x, sigma), expected)
        assert close(prior.encode(image), 0.5 * vq.encode(image).latents) and close(
            prior.decode(x), vq.decode(x / 0.5).sample
        )
    assert prior.image_shape == (3, 32, 32)


def test_diffusers_pixel_pipeline_with_names_of_before_2023(tmp_path):
    unet = diffusers.UNet2DModel(**UNET, in_channels=1, out_channels=1)
    pipeline(
        tmp_path,
        "DDPMPipeline",
        diffusers.DDPMScheduler(prediction_type="v_prediction", beta_schedule="squaredcos_cap_v2"),
        unet=unet,
    )
    old = {}
    for key, tensor in unet.state_dict().items():
        for new, name in (
            ("to_q", "query"),
            ("to_k", "key"),
            ("to_v", "value"),
            ("to_out.0", "proj_attn"),
        ):
            key = key.replace(f".{new}.", f".{name}.")
        old[key] = tensor
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(old, tmp_path / "unet" / "diffusion_pytorch_model.bin")
    prior = checkpoints.load(tmp_path)
    x, table = normal(2, 1, 8, 8), prior.alpha_bar
    assert torch.allclose(
        table.float(),
        diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2").alphas_cumprod,
        rtol=1e-3,
        atol=1e-7,
    )
    sigma, expected = vp(lambda y, t: unet(y, t).sample, x, 500, table, "v")
    with torch.no_grad():
        assert close(prior.denoise(x, sigma), expected)


def test_diffusers_stable_diffusion_folder(tmp_path):
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=768,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    kl = {**STAGE, "block_out_channels": (32, 32, 32, 64)} | {
        k: (v[0],) * 4 for k, v in STAGE.items() if k.endswith("types")
    }
    vae = diffusers.AutoencoderKL(**kl, latent_channels=4)
    scheduler = diffusers.PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    )
    pipeline(tmp_path, "StableDiffusionPipeline", scheduler, unet=unet, vae=vae)
    text = randomise(HuggingFace(1, 768))
    (tmp_path / "text_encoder").mkdir()
    save_file(
        {k: v for k, v in text.state_dict().items()},
        tmp_path / "text_encoder" / "model.safetensors",
    )
    prior = checkpoints.load(tmp_path, {"image_size": 64})
    x = normal(2, 4, 8, 8)
    with torch.no_grad():
        empty = text(EMPTY_1).expand(2, -1, -1)
    sigma, expected = vp(
        lambda y, t: unet(y, t, empty).sample, x, 500, scaled_linear(0.00085, 0.012)
    )
    with torch.no_grad():
        assert close(prior.denoise(x, sigma), expected)


def test_diffusers_autoencoder_alone_and_what_is_refused(tmp_path):
    vae = save(diffusers.AutoencoderKL(**STAGE, latent_channels=4), tmp_path / "vae")
    image = normal(1, 3, 32, 32)
    with torch.no_grad():
        assert close(
            checkpoints.first_stage(tmp_path / "vae").encode(image),
            vae.encode(image).latent_dist.mean,
        )
    save(diffusers.UNet2DModel(**UNET), tmp_path / "unet")
    with pytest.raises(ValueError, match="does not say its noise schedule"):
        checkpoints.load(tmp_path / "unet")
    (tmp_path / "unet" / "config.json").write_text('{"_class_name": "FluxTransformer2DModel"}')
    with pytest.raises(ValueError, match="'FluxTransformer2DModel' is not one of UNet2DModel"):
        checkpoints.load(tmp_path / "unet")


@pytest.mark.parametrize(
    "width, encoder", [(1280, "cond_stage_model.transformer."), (2048, "conditioner.embedders.0.")]
)
def test_other_text_encoders_are_named_by_the_width_of_their_text(tmp_path, width, encoder):
    """latent diffusion's text-to-image and SDXL fell to the reader of class-conditional models, which asked for a YAML."""
    level = 1 if width == 1280 else 4  # where SDXL begins to attend
    state = {
        f"model.diffusion_model.input_blocks.{level}.1.transformer_blocks.0.attn2.to_k.weight": torch.zeros(
            8, width
        ),
        "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(8, 4, 3, 3),
        "first_stage_model.quant_conv.weight": torch.zeros(8, 8, 1, 1),
        f"{encoder}weight": torch.zeros(2, 2),
    }
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(
        ValueError,
        match=f"attends to text of width {width}; Stable Diffusion 1 \\(768\\) and 2 \\(1024\\) can be",
    ):
        checkpoints.load(tmp_path / "x.safetensors")


@pytest.mark.parametrize("before", ["module.", "_orig_mod.", "module._orig_mod."])
def test_names_of_wrappers_are_taken_off_and_that_is_said(tmp_path, narrow, thin, before):
    first, unet, _, text, _ = narrow
    state = state_dict(unet, first, text, "transformer")
    save_file(state, tmp_path / "plain.safetensors")
    save_file(
        {before + key: tensor for key, tensor in state.items()}, tmp_path / "wrapped.safetensors"
    )
    with pytest.warns(UserWarning, match="wrapped.safetensors: its names were read without `"):
        described = checkpoints.describe(tmp_path / "wrapped.safetensors")
    plain = checkpoints.describe(tmp_path / "plain.safetensors")
    assert described.node == plain.node and described.state.keys() == plain.state.keys()
    assert all(torch.equal(described.state[key], plain.state[key]) for key in plain.state)
    assert (
        described.notes == (*plain.notes, described.notes[-1])
        and "read without" in described.notes[-1]
    )
    state["_orig_mod." + next(iter(state))] = torch.zeros(1)
    save_file(state, tmp_path / "both.safetensors")
    with pytest.raises(ValueError, match="with and without _orig_mod."):
        checkpoints.describe(tmp_path / "both.safetensors")
