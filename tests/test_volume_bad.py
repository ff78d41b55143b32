"""Stacks that are hardly volumes: one slice, two, twice the same, of mixed pixels, oblique, of pixels that no prior knows."""

import errno

import nibabel
import numpy as np
import pydicom
import pytest
import tiny

from data import files
from solvers.run import interrupted, whole
from tests.test_volume_door import head, run, world  # noqa: F401  a fixture
from tests.test_volume_results import series


def test_two_slices_are_a_volume(world, tmp_path):  # noqa: F811
    """The least that there is: the image is as large. One thick slice of both is refused."""
    data = head(tmp_path / "in", 17, 18, 2)
    assert run(world, data, tmp_path / "thick") == 2
    tiny.task(world / "thin.yaml", "volume.ThroughPlane", factor=1.5)
    assert run(world, data, tmp_path / "out", task="thin") == 0
    assert nibabel.load(tmp_path / "out/recon/head.nii.gz").shape == (17, 18, 2)
    (record,) = tiny.records(tmp_path / "out").values()
    assert "axial planes are denoised; coronal, sagittal not" in " ".join(record["notes"])


def test_requests_that_ask_for_nothing_are_one_line(world, tmp_path, capsys):  # noqa: F811
    """A picture of one pixel, and flags of volumes as one beside --slicewise."""
    data = head(tmp_path / "in", 17, 18, 3)
    words = (data, tmp_path / "out", "operator.params.factor=100")
    assert run(world, *words, task="sr", solver="baseline") == 2
    assert "measured of 3×18×17; a smaller factor" in tiny.refusal(capsys)
    for flag in (("--coupling", "5"), ("--planes", "all")):
        assert run(world, data, tmp_path / "out", *flag, "--slicewise", task="sr") == 2
        assert "means nothing with --slicewise" in tiny.refusal(capsys)
        assert run(world, data, tmp_path / "out", *flag, task="sr", solver="baseline") == 2
        assert "means nothing with Baseline, which uses none" in tiny.refusal(capsys)
    assert not (tmp_path / "out").exists()


def test_one_slice_is_an_image(world, tmp_path, capsys):  # noqa: F811
    """In a file of volumes: restored by tasks of images, refused in one line by those of volumes."""
    data = head(tmp_path / "in", 17, 18, 1)
    assert run(world, data, tmp_path / "thick") == 2
    assert "thick-pnp measures volumes, and head is a single image" in tiny.refusal(capsys)
    assert run(world, data, tmp_path / "out", task="denoising") == 0
    assert nibabel.load(tmp_path / "out/recon/head.nii.gz").shape == (17, 18, 1)


@pytest.mark.parametrize("kind", ["cut", "empty"])
def test_a_volume_that_cannot_be_read_fails_alone(world, tmp_path, capsys, kind):  # noqa: F811
    """It says what is wrong, as images do; the others are restored. Alone it is refused with the same line."""
    data = head(tmp_path / "in", 17, 18, 4)
    good = (data / "head.nii.gz").read_bytes()
    bad = data / "bad.nii.gz"
    bad.write_bytes(good[: len(good) // 2] if kind == "cut" else b"")
    says = {"cut": "cut short or damaged", "empty": "empty"}[kind]
    assert run(world, data, tmp_path / "out") == 1
    status = {name: one["status"] for name, one in tiny.records(tmp_path / "out").items()}
    assert status["head"] == "ok" and says in status["bad"]
    assert "single image" not in capsys.readouterr().err
    assert run(world, bad, tmp_path / "alone") == 2 and says in tiny.refusal(capsys)


def test_files_that_name_no_series_are_told(world, tmp_path, capsys):  # noqa: F811
    for path in series(tmp_path / "in", 3):
        ds = pydicom.dcmread(path)
        del ds.SeriesInstanceUID
        ds.save_as(path)
    assert run(world, tmp_path / "in", tmp_path / "out") == 2
    assert "is a single image (its file names no series)" in tiny.refusal(capsys)


def test_two_slices_in_one_place_are_one_line(world, tmp_path, capsys):  # noqa: F811
    """A copy under another name, as folders collect them; one by one they are restored."""
    found = series(tmp_path / "in", 5)
    ds = pydicom.dcmread(found[3])
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"{ds.SOPInstanceUID}.1"
    ds.save_as(found[3].with_name("copy.dcm"), enforce_file_format=True)
    assert run(world, tmp_path / "in", tmp_path / "out") == 2
    assert "slices 3 and 4 lie in one place; --slice-range takes" in tiny.refusal(capsys)
    assert run(world, tmp_path / "in", tmp_path / "out", task="denoising") == 2
    assert "slices 3 and 4 lie in one place; --slicewise restores" in tiny.refusal(capsys)
    assert not (tmp_path / "out").exists()
    assert run(world, tmp_path / "in", tmp_path / "out", "--slicewise", task="denoising") == 0
    assert len(tiny.records(tmp_path / "out")) == 6


def test_pixels_of_two_sizes_in_one_series_are_one_line(world, tmp_path, capsys):  # noqa: F811
    """A slice of another pixel spacing belongs to no stack: it stands alone, and is no volume."""
    found = series(tmp_path / "in", 5)
    ds = pydicom.dcmread(found[2])
    ds.PixelSpacing = [0.8, 0.9]
    ds.save_as(found[2], enforce_file_format=True)
    assert run(world, tmp_path / "in", tmp_path / "out") == 2
    assert "thick-pnp measures volumes, and" in (said := tiny.refusal(capsys))
    assert f"{found[2].stem} is a single image" in said


def test_an_oblique_affine_is_kept_to_the_last_digit(world, tmp_path):  # noqa: F811
    """Turned by 20 and 35 degrees about two axes: thin slices lie along the turned normal."""
    a, b = np.deg2rad((20, 35))
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = z @ x @ np.diag([0.9, 0.9, 5.0]), (-80, 30, 12)
    data = head(tmp_path / "in", 17, 19, 4, affine=affine)
    assert run(world, data, tmp_path / "out", "--measurements") == 0
    after = nibabel.load(tmp_path / "out/recon/head.nii.gz")
    assert after.shape == (17, 19, 10)
    for k in range(10):
        place = (k + 0.5) / 2.5 - 0.5
        assert np.allclose(after.affine @ (2, 3, k, 1), affine @ (2, 3, place, 1), atol=1e-5)


def test_pixels_that_no_plane_has_square_are_said(world, tmp_path):  # noqa: F811
    """1 x 2 mm in the plane, 5 mm apart: the slices as they are, and the record says why."""
    data = head(tmp_path / "in", 17, 19, 18, affine=np.diag([1.0, 2.0, 5.0, 1.0]))
    assert run(world, data, tmp_path / "out") == 0
    (record,) = tiny.records(tmp_path / "out").values()
    assert "pixels of 2 x 1 mm, where the prior knows square ones" in " ".join(record["notes"])


def test_a_full_disk_ends_the_run_and_fails_no_volume(world, tmp_path, capsys, monkeypatch):  # noqa: F811
    """The state between two levels cannot be written: one line, no record; with space again the same command goes on."""
    data = head(tmp_path / "in", 17, 18, 19)
    monkeypatch.setattr(interrupted.Savings.__init__, "__defaults__", (0.0,))

    def full(path, content):
        raise files.unwritable(path, OSError(errno.ENOSPC, "No space left on device"), 1)

    with monkeypatch.context() as patch:
        patch.setattr(interrupted, "commit", full)
        assert run(world, data, tmp_path / "out") == 2
    assert "interrupted" in tiny.refusal(capsys)
    assert not tiny.records(tmp_path / "out")
    assert run(world, data, tmp_path / "out") == 0
    assert tiny.records(tmp_path / "out")["head"]["status"] == "ok"


def test_double_precision_needs_twice_the_memory(world, tmp_path, capsys, monkeypatch):  # noqa: F811
    data, needed = head(tmp_path / "in", 16, 17, 5), 16 * 17 * 5 * 4 * whole.ARRAYS
    monkeypatch.setattr(whole, "_available", lambda: needed)
    assert run(world, data, tmp_path / "out", "--precision", "64") == 2
    assert "the volume is larger than the memory" in tiny.refusal(capsys)
    assert run(world, data, tmp_path / "out") == 0


@pytest.mark.parametrize("version", [2, 1])
def test_a_container_has_no_more_than_it_may_use(tmp_path, version):
    """What it holds of files the kernel takes back; without a limit nothing is known."""
    most, used, stat, files = whole.GROUPS[2 - version]
    (tmp_path / "memory").mkdir()
    (tmp_path / used).write_text("700\n")
    (tmp_path / stat).write_text(f"anon 500\n{files} 200\nactive_file 9\n")
    (tmp_path / most).write_text("max\n")
    assert whole._of_group(tmp_path) is None
    (tmp_path / most).write_text("1000\n")
    assert whole._of_group(tmp_path) == 500
    (tmp_path / used).write_text("1300\n")
    assert whole._of_group(tmp_path) == 0
