"""Stable Diffusion's prompts: cut into tokens by transformers where it is installed, encoded by the model's own CLIP."""

import json
import os
import socket
import sys

import diffusers
import pytest
import torch
from foreign import close, normal, randomise, scaled_linear, vp
from published_clip import HuggingFace, OpenCLIP
from safetensors.torch import save_file
from test_checkpoints_stable_diffusion import STAGE, pipeline

from ldm import checkpoints
from ldm.checkpoints import text
from ldm.checkpoints.options import Options

START, END = 49406, 49407
MERGES = ["c h", "ch e", "s t</w>", "che st</w>"]
WORDS = [
    203,
    18,
    2,
    0,
    113,
]  # "chest" by the merges; "scan" letter by letter, whose last is marked </w>


@pytest.fixture(scope="module")
def encoders():
    return randomise(HuggingFace(1, 768), seed=3), randomise(OpenCLIP(2, 1024), seed=4)


@pytest.fixture
def tokenizer(tmp_path):
    """A folder as CLIP's, of 26 letters, 26 last letters and four merges."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    vocabulary = {chr(97 + i): i for i in range(26)} | {
        f"{chr(97 + i)}</w>": 100 + i for i in range(26)
    }
    vocabulary |= {pair.replace(" ", ""): 200 + i for i, pair in enumerate(MERGES)}
    vocabulary |= {"<|startoftext|>": START, "<|endoftext|>": END}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n")
    return folder


def by_hand(encoder, words, padding):
    with torch.no_grad():
        return encoder(torch.tensor([[START, *words, END] + [padding] * (75 - len(words))]))[0]


def prompted(encoder, path, **settings):
    return text.prompted(
        Options(settings, path), encoder, 1024 if "positional_embedding" in encoder else 768
    )


def test_tokens_of_a_prompt(tokenizer, monkeypatch):
    pytest.importorskip("transformers")
    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, lambda *a, **k: pytest.fail("asked the network"))
    assert text.tokens("Chest  SCAN", tokenizer) == WORDS
    assert text.tokens(" ".join(["chest"] * 75), tokenizer) == [203] * 75
    with pytest.raises(ValueError, match="the prompt has 76 tokens; at most 75 fit"):
        text.tokens(" ".join(["chest"] * 76), tokenizer)
    vocabulary = json.loads((tokenizer / "vocab.json").read_text()) | {"<|startoftext|>": 300}
    (tokenizer / "vocab.json").write_text(json.dumps(vocabulary))
    with pytest.raises(ValueError, match="is not CLIP's tokenizer"):
        text.tokens("chest", tokenizer)
    (tokenizer / "vocab.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read safely") as caught:
        text.tokens("chest", tokenizer)
    assert "\n" not in str(caught.value)


def test_encoded_prompts_and_guidance(tmp_path, encoders, monkeypatch):
    """Version 1 pads with the end token, version 2 with token 0; the encoders are independent ones."""
    monkeypatch.setattr(text, "tokens", lambda prompt, folder: WORDS if prompt else [])
    for encoder, padding in zip(encoders, (END, 0)):
        state = encoder.state_dict()
        buffers, guidance, notes = prompted(state, tmp_path, prompt="chest scan", guidance=7.5)
        assert (
            guidance == 7.5
            and notes == ("prompt 'chest scan'", "guidance 7.5")
            and set(buffers) == {"text", "empty"}
        )
        assert close(buffers["text"], by_hand(encoder, WORDS, padding)) and close(
            buffers["empty"], by_hand(encoder, [], padding)
        )
        assert not close(buffers["text"], buffers["empty"])
        plain, one, notes = prompted(state, tmp_path, prompt="  ")
        assert (
            torch.equal(plain["text"], buffers["empty"])
            and (one, notes) == (1, ())
            and set(plain) == {"text"}
        )


def test_refusals_in_one_line(tmp_path, encoders, tokenizer, monkeypatch):
    state, place = encoders[0].state_dict(), tmp_path / "model"
    place.mkdir()
    monkeypatch.setitem(sys.modules, "transformers", None)
    cases = [
        (
            state,
            {"prompt": "scan", "tokenizer": str(tokenizer)},
            "needs transformers: pip install palimpsest.text.$",
        ),
        (state, {"prompt": "scan"}, "model/tokenizer: a prompt needs CLIP's tokenizer here"),
        (state, {"prompt": "scan", "embedding": "x"}, "say the same thing twice"),
        (state, {"prompt": "", "guidance": 3.0}, "guidance needs a prompt to guide to"),
        (state, {"prompt": 3}, "prompt must be of type str"),
    ]
    for encoder, settings, message in cases:
        with pytest.raises(ValueError, match=message) as caught:
            prompted(encoder, place, **settings)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="holds no text encoder"):
        text.prompted(Options({"prompt": "scan"}, place), {}, 768)
    (tokenizer / "merges.txt").write_bytes(b" " * (text.TOKENIZER_LIMIT + 1))
    with pytest.raises(ValueError, match="too large for a tokenizer"):
        prompted(state, place, prompt="scan", tokenizer=str(tokenizer))
    (tokenizer / "tokenizer_config.json").symlink_to("/dev/zero")
    (tokenizer / "merges.txt").write_text("#version: 0.2")
    with pytest.raises(ValueError, match="no such file"):
        prompted(state, place, prompt="scan", tokenizer=str(tokenizer))


def test_a_tokenizers_config_runs_nothing(tmp_path, tokenizer):
    pytest.importorskip("transformers")
    (tokenizer / "evil.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\n")
    (tokenizer / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}'
    )
    assert text.tokens("chest scan", tokenizer) == WORDS
    assert not (tmp_path / "sprung").exists()


def test_a_folder_saved_by_diffusers_and_transformers(tmp_path, tokenizer):
    """The prompt as both libraries themselves encode it, guided by 7.5, against the loaded prior; exported and loaded again."""
    transformers = pytest.importorskip("transformers")
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
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    )
    folder = tmp_path / "sd"
    pipeline(
        folder,
        "StableDiffusionPipeline",
        scheduler,
        unet=unet,
        vae=diffusers.AutoencoderKL(**kl, latent_channels=4),
    )
    sizes = dict(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=1,
        num_attention_heads=12,
        vocab_size=49408,
    )
    encoder = randomise(
        transformers.CLIPTextModel(
            transformers.CLIPTextConfig(**sizes, bos_token_id=START, eos_token_id=END)
        )
    )
    encoder.save_pretrained(folder / "text_encoder")
    os.rename(tokenizer, folder / "tokenizer")
    theirs = transformers.CLIPTokenizerFast.from_pretrained(
        str(folder / "tokenizer"), local_files_only=True
    )
    with torch.no_grad():
        numbers = theirs(
            ["Chest scan", ""], padding="max_length", max_length=77, return_tensors="pt"
        ).input_ids
        context, empty = encoder(numbers)[0]

    def guided(x, t):
        asked, free = (unet(x, t, c.expand(len(x), -1, -1)).sample for c in (context, empty))
        return free + 7.5 * (asked - free)

    prior = checkpoints.load(folder, {"image_size": 64, "prompt": "Chest scan", "guidance": 7.5})
    x = normal(2, 4, 8, 8)
    sigma, expected = vp(guided, x, 500, scaled_linear(0.00085, 0.012))
    with torch.no_grad():
        assert close(prior.denoise(x, sigma), expected)
    described = checkpoints.describe(
        folder, {"image_size": 64, "prompt": "Chest scan", "guidance": 7.5}
    )
    exported = checkpoints.export(described, tmp_path / "exported")
    assert "prompt 'Chest scan'" in (exported / "README.md").read_text()
    with torch.no_grad():
        assert torch.equal(checkpoints.load(exported).denoise(x, sigma), prior.denoise(x, sigma))


def test_a_given_embedding_is_noted_by_its_name(tmp_path):
    save_file({"text": normal(77, 768)}, tmp_path / "prompt.safetensors")
    buffers, _, notes = text.prompted(
        Options({"embedding": str(tmp_path / "prompt.safetensors")}, tmp_path), {}, 768
    )
    assert torch.equal(buffers["text"], normal(77, 768)) and notes == (
        "prompt encoded in prompt.safetensors",
    )
