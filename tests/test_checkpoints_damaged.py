"""Flipped bits in a checkpoint: the archive's own checksums say so, wherever they lie; and the best one is offered instead."""

import shutil
import zipfile
from pathlib import Path

import pytest
import torch

from ldm.checkpoints.reading import weights
from ldm.training.run_folder import same_run


@pytest.fixture
def last(tmp_path: Path) -> Path:
    content = {
        "state_dict": {"a": torch.arange(1000.0), "b": torch.ones(3, 5)},
        "config": {"prior": {}},
        "manifests": {},
    }
    torch.save(content, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def flipped(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 4
    path.write_bytes(content)


def test_a_flipped_bit_in_any_entry_is_told(last: Path):
    whole = last.read_bytes()
    with zipfile.ZipFile(last) as archive:
        entries = {entry: archive.read(entry) for entry in archive.infolist() if entry.file_size}
    assert len(entries) > 3 and weights(last)["state_dict"]["a"][999] == 999
    for entry, content in entries.items():
        last.write_bytes(whole)
        flipped(
            last,
            whole.index(content, entry.header_offset + 30 + len(entry.filename))
            + len(content) // 2,
        )
        with pytest.raises(ValueError, match=f"damaged: {entry.filename} is not what was written"):
            weights(last)


def test_a_broken_last_checkpoint_offers_the_best_one(last: Path):
    whole = last.read_bytes()
    broken = whole.index(torch.arange(1000.0).numpy().tobytes()) + 2001
    flipped(last, broken)
    with pytest.raises(ValueError, match=r"checksum differs\)$"):
        same_run(last, {}, {})
    shutil.copy(last, last.with_name("best.ckpt"))
    with pytest.raises(
        ValueError, match="last.ckpt: damaged: .*; .*best.ckpt is there to go on from$"
    ):
        same_run(last, {}, {})
    last.write_bytes(whole[: len(whole) // 2])  # cut short
    with pytest.raises(ValueError, match="best.ckpt is there to go on from$"):
        same_run(last, {}, {})
