"""Runs of main.py on eight tiny scans: the four kinds of training, small, and what they leave behind."""

import math
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from ldm import config as configuration


def trainable(part: str, node: dict, target: str, **params) -> dict:
    optimiser = {"target": "ldm.training.optimisation.AdamW", "params": {"lr": 1e-3, "warmup": 2}}
    return {
        part: node,
        "model": {"target": f"ldm.{target}", "params": {"optimiser": optimiser, **params}},
    }


def edm(**network) -> dict:
    denoiser = {
        "target": "ldm.denoiser.EDM",
        "params": {"network": tiny.network(1, time_scale=100, **network)},
    }
    return {"target": "ldm.denoiser.Prior", "params": {"denoiser": denoiser, "shape": [1, 16, 16]}}


CODEBOOK = {
    "target": "ldm.training.bottleneck.Codebook",
    "params": {"codes": 16, "from_data": 2, "revive": 2},
}
CROPS = {
    "target": "ldm.training.crops.Crops",
    "params": {"sizes": {4: 0.4, 8: 0.6}, "per_image": 2},
}
KINDS = {
    "autoencoder": trainable(
        "first_stage", tiny.STAGE, "autoencoder.Autoencoder", bottleneck=CODEBOOK, crops={0: 8}
    ),
    "latent": trainable(
        "prior", tiny.latent(), "latent_diffusion.LatentDiffusion", estimate_scale=True, flip=True
    ),
    "pixel": trainable("prior", edm(dropout=0.1), "diffusion.PixelDiffusion", flip=True),
    "patch": trainable("prior", tiny.patch(), "diffusion.PatchDiffusion", crops=CROPS),
}

KL = {
    "target": "ldm.latent.KL",
    "params": {
        "model": {
            "target": "ldm.networks.unet.KLModel",
            "params": {"channels": 1, "widths": [32, 32], "blocks": 1, "latent": 3},
        }
    },
}


def positioned(channels: int) -> dict:
    """An EDM network that is given two position channels."""
    return {
        "target": "ldm.denoiser.EDM",
        "params": {"network": tiny.network(channels + 2, channels, time_scale=100)},
    }


def on_latents(denoiser: dict, stage: dict) -> dict:
    return {
        "target": "ldm.latent.LatentPrior",
        "params": {"denoiser": denoiser, "shape": [3, 8, 8], "first_stage": stage},
    }


def whole(channels: int) -> dict:
    return {"target": "ldm.preconditioning.Whole", "params": {"denoiser": positioned(channels)}}


def crops(**sizes: float) -> dict:
    return {
        "target": "ldm.training.crops.Crops",
        "params": {"sizes": {int(k[1:]): v for k, v in sizes.items()}, "per_image": 1},
    }


WHOLE = {"target": "ldm.denoiser.Prior", "params": {"denoiser": whole(1), "shape": [1, 16, 16]}}
PADIS = {
    "target": "ldm.latent.LatentPatchPrior",
    "params": {
        "denoiser": {
            "target": "ldm.patch.PatchPrior",
            "params": {"denoiser": positioned(3), "channels": 3, "size": 8, "patch": 6},
        },
        "first_stage": tiny.STAGE,
    },
}
GAUSSIAN = {"target": "ldm.training.bottleneck.Gaussian", "params": {"weight": 1e-4}}
LATENT_PATCHES = "latent_diffusion.LatentPatchDiffusion"
OTHERS = {
    "patch-diffusion": trainable(
        "prior", WHOLE, "diffusion.PatchDiffusion", crops=crops(p4=0.2, p8=0.3, p16=0.5)
    ),
    "patches of latents": trainable(
        "prior", on_latents(whole(3), KL), LATENT_PATCHES, crops=crops(p4=0.5, p8=0.5)
    ),
    "padis on latents": trainable(
        "prior", PADIS, LATENT_PATCHES, crops=crops(p2=0.5, p6=0.5), estimate_scale=True, flip=True
    ),
    "kl": trainable("first_stage", KL, "autoencoder.Autoencoder", bottleneck=GAUSSIAN),
    "latents of kl": trainable(
        "prior", on_latents(tiny.vp(3), KL), "latent_diffusion.LatentDiffusion", cache=True
    ),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Eight smooth 16 x 16 scans and a data file that names them."""
    folder = tmp_path_factory.mktemp("scans")
    y, x = np.mgrid[0:16, 0:16] / 15
    for i in range(8):
        picture = 127 + 120 * np.sin(3 * x + i) * np.cos(2 * y - i)
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"s{i}.png")
    (folder / "train.csv").write_text(
        "path,label\n" + "".join(f"s{i}.png,{i % 2}\n" for i in range(8))
    )
    (folder / "data.yaml").write_text(
        f"data: {{target: data.datamodule.ManifestData, params: {{train: {folder}/train.csv, validation: {folder}/train.csv, "
        "batch_size: 2}}\ntrainer: {accelerator: cpu, enable_progress_bar: false, enable_model_summary: false, "
        "num_sanity_val_steps: 0, limit_val_batches: 0}\n"
    )
    return folder


def arguments(data: Path, where: Path, kind: str, *more: str) -> list[str]:
    where.mkdir(parents=True, exist_ok=True)
    (where / f"{kind}.yaml").write_text(configuration.dump({**KINDS, **OTHERS}[kind]))
    base = ["--base", str(where / f"{kind}.yaml"), str(data / "data.yaml")]
    given = any(
        word.startswith(("--init", "--first-stage", "first_stage_weights")) for word in more
    )
    if "first_stage" in {**KINDS, **OTHERS}[kind].get("prior", {}).get("params", {}) and not given:
        base += ["--first-stage", "random"]
    return [
        *base,
        "--train",
        "--logdir",
        str(where),
        "--project",
        "p",
        "--name",
        kind,
        "--resume",
        "auto",
        *more,
    ]


def last(where: Path, kind: str) -> dict:
    return torch.load(where / "p" / kind / "checkpoints" / "last.ckpt", weights_only=True)


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


def written(where: Path, kind: str, name: str | None = None):
    """The tags of a run's TensorBoard folder, or the values of one scalar."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(where / "p" / kind / "tensorboard"))
    events.Reload()
    return events.Tags() if name is None else [event.value for event in events.Scalars(name)]
