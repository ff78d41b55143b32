"""Restorations that are killed again and again, half of the times where it hurts: nothing is lost, doubled or stale.

The long run in pieces, each by itself:  pytest -m slow tests/chaos -k "alone-0"  (… alone-3, joined-0, joined-1; the training's
four are in test_chaos_training.py): 200 lives in all, half by SIGKILL and half by SIGTERM.
"""

import shutil
from pathlib import Path

import lives
import numpy as np
import pytest
import tiny

import sample
from data import files
from solvers.run import report, results, shares, volumes, writer
from solvers.run.committed import Standing

pytestmark = pytest.mark.forks


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Three pictures and a volume of three slices."""
    import nibabel

    where = tiny.world(tmp_path_factory.mktemp("world"))
    y, x = np.mgrid[0:16, 0:16]
    slices = [np.sin(x / 3 + i) * np.cos(y / 4) * 300 + 400 for i in range(3)]
    nibabel.save(
        nibabel.Nifti1Image(np.stack(slices, 2).astype(np.int16), np.eye(4)),
        where / "scans/volume.nii",
    )
    return where


AIMED: lives.Places = {
    "a file is renamed": (files.os, "replace", 8),
    "a file is synced": (files.os, "fsync", 12),
    "a record is written": (results, "append", 4),
    "records are taken up": (Standing, "keep", 1),
    "a volume is put together": (volumes, "_assemble", 1),
    "the summary is written": (report, "write", 1),
    "an image is committed": (writer.Writer, "commit", 3),
}
JOINED: lives.Places = {"a batch is taken": (shares.Shares, "_add", 4)}


def survived(world: Path, where: Path, deaths: int, seed: int, *more: str) -> None:
    words = tiny.words(world, where / "out", "--batch-size", "2", *more, solver="daps", task="mask")

    def work() -> int:
        return sample.main(words)

    assert lives.life(work) == 0
    shutil.move(where / "out", where / "whole")
    places = AIMED | (JOINED if "--join" in more else {})
    print(
        lives.survived(
            work, places, 0.4, deaths, seed, lambda: same(where), lambda: anew(where / "out")
        )
    )


def anew(folder: Path) -> None:
    shutil.rmtree(folder)


def same(where: Path) -> None:
    """Files to the byte, one record an image, no file that is not of the results."""
    first, second = tiny.records(where / "whole"), tiny.records(where / "out")
    for record in (*first.values(), *second.values()):
        del record["seconds"]
    assert second == first
    names = [
        {str(p.relative_to(f)): p for p in f.rglob("*") if p.is_file()}
        for f in (where / "whole", where / "out")
    ]
    kept = [
        {name for name in one if not name.startswith(".run/") and ".tmp" not in name}
        for one in names
    ]
    assert kept[0] == kept[1]
    for name in kept[0]:
        if name.split("/")[0] in ("recon", "measurement", "panels", "operator"):
            assert names[0][name].read_bytes() == names[1][name].read_bytes(), name


def test_ten_deaths(world, tmp_path):
    survived(world, tmp_path, 10, 10)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "piece", range(6), ids=lambda n: f"{'alone' if n < 4 else 'joined'}-{n % 4}"
)
def test_a_piece_of_the_long_run(world, tmp_path, piece):
    survived(world, tmp_path, lives.PIECE, 100 + piece, *["--join"] * (piece >= 4))
