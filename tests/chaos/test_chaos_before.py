# ruff: noqa: F811 (a fixture is imported)
"""What comes before training is killed and stopped again and again: preparing a data set, encoding images once for all.

The same command ends with the bytes of one that nobody disturbed.
"""

import shutil
from pathlib import Path

import lives
import numpy as np
import pytest
import torch
from preparing import call, everything, picture
from runs import arguments, data, same  # noqa: F401  data is a fixture

import main
from data import files
from data.prepare import convert, report
from data.prepare.journal import Journal
from ldm.training.latent_cache import Latents
from ldm.training.saving import AtomicSave

pytestmark = pytest.mark.forks

PREPARING: lives.Places = {
    "a file is converted": (convert, "work", 2),
    "a picture is written": (convert, "_save", 2),
    "a file is renamed": (files.os, "replace", 3),
    "a file is synced": (files.os, "fsync", 2),
    "the journal is written": (Journal, "add", 2),
    "the report is written": (report, "commit_json", 1),
}
ENCODING: lives.Places = {
    "an image is encoded": (Latents, "encode", 8),
    "a checkpoint is saved": (AtomicSave, "save_checkpoint", 2),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Five pictures and a volume of six slices."""
    import nibabel

    where = tmp_path_factory.mktemp("source")
    for number in range(5):
        picture(where / f"{number}.png", seed=number)
    slices = np.random.default_rng(0).integers(0, 900, (24, 24, 6), dtype=np.int16)
    nibabel.save(nibabel.Nifti1Image(slices, np.eye(4)), where / "volume.nii.gz")
    return where


def test_a_preparation_that_is_killed_and_stopped_twenty_times(source, tmp_path):
    out = tmp_path / "out"

    def work() -> int:
        return call(source, out, "--image-size", "16")

    def whole() -> None:
        assert everything(out) == everything(tmp_path / "whole")

    assert lives.life(work) == 0
    shutil.move(out, tmp_path / "whole")
    print(lives.survived(work, PREPARING, 0.05, 20, 300, whole, lambda: shutil.rmtree(out)))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_encoding_that_is_killed_and_stopped_ten_times(data, tmp_path):
    """Latents are kept in memory alone: whatever life comes next finds the same ones."""
    kind = "latents of kl"
    words = arguments(data, tmp_path, kind, "save_every=2", "--max_steps", "6")
    folder = tmp_path / "p" / kind

    def work() -> int:
        return main.main(words)

    def whole() -> None:
        a, b = (
            torch.load(place / "checkpoints/last.ckpt", weights_only=True)
            for place in (tmp_path / "whole", folder)
        )
        assert a.keys() == b.keys() and [k for k in a if not same(a[k], b[k])] == []

    assert lives.life(work) == 0
    shutil.move(folder, tmp_path / "whole")
    print(lives.survived(work, ENCODING, 1.5, 10, 301, whole, lambda: shutil.rmtree(folder)))
