"""Preparations for tests: the script called in process, pictures to give it, and what it made of them."""

import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image

from data.manifest import read

HOME = Path(__file__).resolve().parents[1]
SCRIPT = HOME / "scripts" / "prepare_super_resolution_dataset.py"
DEMO = HOME / "models" / "demo-data"

spec = importlib.util.spec_from_file_location("prepare_script", SCRIPT)
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)


def call(source, out, *options):
    return script.main(
        [
            "--train-dir",
            str(source),
            "--output-root",
            str(out),
            "--workers",
            "1",
            *map(str, options),
        ]
    )


def picture(path, shape=(40, 40), dtype=np.uint8, seed=0, part=1):
    """Noise over the middle `part` of the range."""
    path.parent.mkdir(parents=True, exist_ok=True)
    edge = int(np.iinfo(dtype).max * (1 - part) / 2)
    pixels = np.random.default_rng(seed).integers(
        edge, np.iinfo(dtype).max - edge, shape, dtype=dtype, endpoint=True
    )
    Image.fromarray(pixels).save(path)
    return pixels


def rows(out, split="train"):
    return list(read(out / f"{split}.csv"))


def made(path):
    return np.array(Image.open(path))


def everything(out):
    return {
        p.relative_to(out): p.read_bytes()
        for p in out.rglob("*")
        if p.is_file() and p.name != ".progress.jsonl"
    }
