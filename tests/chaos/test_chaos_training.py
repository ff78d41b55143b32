# ruff: noqa: F811 (a fixture is imported)
"""Trainings that are killed and stopped again and again: weights, averages and the best are those of an undisturbed run.

The long run in pieces, each by itself:  pytest -m slow tests/chaos/test_chaos_training.py -k "piece-0"  (… piece-3).
"""

import shutil
from pathlib import Path

import lives
import pytest
import torch
from runs import arguments, data, same  # noqa: F401  data is a fixture

import main
from data import files
from ldm.training.diffusion import PixelDiffusion
from ldm.training.saving import AtomicSave

pytestmark = pytest.mark.forks

MORE = (
    "--limit_val_batches", "2", "--val_check_interval", "2", "--log_every_n_steps", "1", "save_every=2", "--max_steps", "8",
)  # fmt: skip
AIMED: lives.Places = {
    "a validation": (PixelDiffusion, "validation_step", 4),
    "a step": (PixelDiffusion, "training_step", 6),
    "a checkpoint is saved": (AtomicSave, "save_checkpoint", 3),
    "its content is written": (torch, "save", 3),
    "a file is renamed": (files.os, "replace", 8),
    "a file is synced": (files.os, "fsync", 8),
}


def survived(data: Path, where: Path, deaths: int, seed: int) -> None:
    words, folder = arguments(data, where, "pixel", *MORE), where / "p/pixel"

    def work() -> int:
        return main.main(words)

    assert lives.life(work) == 0
    shutil.move(folder, where / "whole")

    def whole() -> None:
        for name in ("last.ckpt", "best.ckpt"):
            a, b = (
                torch.load(one / "checkpoints" / name, weights_only=True)
                for one in (where / "whole", folder)
            )
            assert a.keys() == b.keys()
            # "loops" count the batches of validations that were begun twice
            assert [key for key in a if key != "loops" and not same(a[key], b[key])] == []
        left = {p.name for p in (folder / "checkpoints").iterdir() if not p.name.startswith(".")}
        assert left == {"last.ckpt", "best.ckpt"}

    print(lives.survived(work, AIMED, 1.5, deaths, seed, whole, lambda: shutil.rmtree(folder)))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("piece", range(4), ids=lambda n: f"piece-{n}")
def test_a_piece_of_the_long_run(data, tmp_path, piece):
    survived(data, tmp_path, lives.PIECE, 200 + piece)
