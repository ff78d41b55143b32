"""Bombs and lies: a small file that claims, or unpacks to, more than it may costs one line, two seconds and 200 MB at most."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hostile_images import cases

from data import formats
from data.formats import bounds

SECONDS, MEGABYTES = 2.0, 200
CHILD = """
import sys, time
from data import formats
def peak():
    status = open("/proc/self/status").read()  # getrusage would give the parent's, if that is more
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
import nibabel, nrrd, h5py, pydicom.pixels, scipy.io  # their memory is no file's fault
import PIL.PngImagePlugin, PIL.JpegImagePlugin, PIL.TiffImagePlugin
for path in sys.argv[1:]:
    before, began, line = peak(), time.perf_counter(), "accepted"
    try:
        formats.count(path) < 2**20 and formats.read(path, 0)
    except ValueError as error:
        line = str(error)
    print(f"{time.perf_counter() - began:.2f}\\t{peak() - before:.0f}\\t{line}", flush=True)
"""


@pytest.mark.timeout(240)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured on Linux")
def test_bombs_and_links(tmp_path, capsys):
    """One process reads them all; its greatest memory only rises, so each rise belongs to one file."""
    pytest.importorskip("h5py")
    paths = [path for path in cases(tmp_path)]
    ran = subprocess.run(
        [sys.executable, "-c", CHILD, *map(str, paths)],
        capture_output=True,
        text=True,
        cwd=Path.cwd(),
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    rows = [line.split("\t") for line in ran.stdout.splitlines()]
    assert len(rows) == len(paths)
    with capsys.disabled():
        print()
        for path, (seconds, megabytes, line) in zip(paths, rows):
            told = line.removeprefix(str(path))[:90]
            print(
                f"  {path.name:20s} {path.stat().st_size:8d} bytes {seconds:>5s} s {megabytes:>4s} MB  {told}"
            )
    for path, (seconds, megabytes, line) in zip(paths, rows):
        assert line.startswith(str(path)) and (
            "allow" in line or "where the header promises" in line
        ), (path.name, line)
        assert float(seconds) <= SECONDS and float(megabytes) <= MEGABYTES, (
            path.name,
            seconds,
            megabytes,
        )
        assert "secret number" not in line


def test_the_bound_is_the_users(tmp_path, monkeypatch):
    """A flag for those who have large images; an eighth of a volume's bound."""
    monkeypatch.setenv(bounds.VARIABLE, "1000")
    np.save(tmp_path / "a.npy", np.zeros((20, 20), np.uint8))  # 1,600 bytes as float32
    with pytest.raises(ValueError, match="--max-image-bytes allows more"):
        formats.read(tmp_path / "a.npy")
    formats.allow(1600)
    assert os.environ[bounds.VARIABLE] == "1600"
    assert formats.read(tmp_path / "a.npy").pixels.shape == (1, 20, 20)
    np.save(
        tmp_path / "b.npy", np.zeros((33, 20, 20), np.uint8)
    )  # 13,200 bytes; 12,800 are allowed
    with pytest.raises(ValueError, match="33 images of 20 x 20"):
        formats.count(tmp_path / "b.npy")
    with pytest.raises(ValueError, match="a number of bytes from 1"):
        formats.allow(0)
    monkeypatch.setenv(bounds.VARIABLE, "2 GB")
    with pytest.raises(ValueError, match="a number of bytes from 1"):
        formats.read(tmp_path / "a.npy")


def test_honest_files_that_pack_well_are_read(tmp_path):
    """A mask of zeros packs nearly as well as deflate can."""
    import nibabel

    nibabel.save(
        nibabel.Nifti1Image(np.zeros((256, 256, 40), np.uint8), np.eye(4)), tmp_path / "mask.nii.gz"
    )
    assert (
        formats.count(tmp_path / "mask.nii.gz") == 40
        and not formats.read(tmp_path / "mask.nii.gz", 39).pixels.any()
    )
    np.savez_compressed(tmp_path / "mask.npz", image=np.zeros((40, 256, 256), np.uint8))
    assert not formats.read(tmp_path / "mask.npz", 39).pixels.any()


@pytest.mark.parametrize("flag", ["--max-image-bytes", "--max_image_bytes"])
def test_every_program_takes_the_bound(monkeypatch, flag):
    """Programs and their workers read it where the readers do; nonsense is refused."""
    from solvers.run.command import Parser

    monkeypatch.setenv(bounds.VARIABLE, "1")  # put back afterwards
    Parser("sample.py", "").parse_args([flag, "5000000000"])
    assert bounds.image_bytes() == 5_000_000_000
    with pytest.raises(ValueError, match="whole number from 1"):
        Parser("sample.py", "").parse_args([flag, "2GB"])
