"""The shipped scans are what they are said to be; the demo script fetches safely and knows left from right."""

from pathlib import Path

import demo_scans
import demo_selection
import nibabel
import nrrd
import numpy as np
import pydicom
import pytest
import torch
from archives import Archive
from demo_volumes import volume
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

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
    trained, validated, held_out = (
        {s.subject for s in demo_scans.SCANS if s.split == p} for p in ("train", "val", "test")
    )
    assert {row.subject for row in ROWS} == {"lung2", "brain2"} <= held_out
    assert held_out == {"lung2", "brain2", "s1045", "dipy", "abdomen", "headct"}
    assert validated == {"r85", "pelvis", "shoulder", "lungdx", "t2head"} and len(trained) == 30
    assert len(trained | validated | held_out) == len(demo_scans.SCANS)  # nobody is in two


def test_sources_are_licensed_checked_and_none_is_reserved():
    members = [member for archive in demo_scans.ARCHIVES for member in archive.members]
    for reserved in ("ch2", "sample_image", "insighttoolkit", "invesalius", "brainbrowser"):
        assert not [member for member in members if reserved in member]
    for archive in demo_scans.ARCHIVES:
        assert archive.licence and archive.registry in ("PyPI", "npm")
        assert all(len(digest) == 64 for digest in (archive.sha256, *archive.members.values()))
    names = {file for archive in demo_scans.ARCHIVES for file in archive.files}
    assert len(names) == len(members)  # two of one name would overwrite one another
    assert all(any(Path(name).match(scan.file) for name in names) for scan in demo_scans.SCANS)


def test_every_file_is_explained():
    text = (SHIPPED / "ORIGIN.md").read_text()
    for name in (
        "lung2-ax-*.dcm",
        "brain2-ax-*.png",
        "brain2.nii.gz",
        "BSD-3-Clause",
        "Research use, not for diagnosis",
    ):
        assert name in text
    assert all(scan.subject in text for scan in demo_scans.SCANS)
    assert all(archive.requirement.replace("==", " ") in text for archive in demo_scans.ARCHIVES)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.image_id)
def test_every_slice_loads(row):
    image, file, intensity = load(row, 1)
    assert image.shape == (1, 256, 256) and image.dtype == torch.float32
    assert (
        image.min() == -1 and image.max() > 0.3 and (image > -0.8).float().mean() > 0.2
    )  # a body on black
    if row.subject == "lung2":
        assert row.label == 0 and (intensity.low, intensity.high) == (-1000, 400)
        assert (
            file.meta.format == "dicom" and file.pixels.min() >= -1024 and file.pixels.max() > 400
        )
    else:
        assert row.label == 1


def test_datasets_take_them():
    data = ManifestDataset(SHIPPED / "test.csv", channels=3)
    assert len(data) == 24 and data[0]["image"].shape == (3, 256, 256)


def test_dicom_is_whole_and_says_nothing_about_a_person():
    scans = [pydicom.dcmread(row.path) for row in ROWS if row.path.endswith(".dcm")]
    assert len({scan.SOPInstanceUID for scan in scans}) == 8
    assert (
        len({scan.SeriesInstanceUID for scan in scans})
        == len({scan.FrameOfReferenceUID for scan in scans})
        == 1
    )
    for scan in scans:
        assert (
            scan.PatientIdentityRemoved == "YES"
            and scan.PatientID == "lung2"
            and not scan.PatientName
        )
        assert not any(
            scan.get(name)
            for name in (
                "PatientBirthDate",
                "StudyDate",
                "ReferringPhysicianName",
                "AccessionNumber",
            )
        )
        assert not any(name in scan for name in STALE if name != "PixelData")
        assert list(scan.PixelSpacing) == [1.253906] * 2 and scan.pixel_array.shape == (256, 256)
    heights = sorted(float(scan.ImagePositionPatient[2]) for scan in scans)
    assert np.allclose(np.diff(heights), 25)  # every fifth of 5 mm
    assert {tuple(scan.ImagePositionPatient[:2]) for scan in scans} == {
        (-170.186523, -324.186523)
    }  # half a pixel inwards


def test_volume_lies_where_the_pictures_are():
    volume = nibabel.load(SHIPPED / "brain2.nii.gz")
    assert volume.shape == (256, 256, 5) and volume.get_data_dtype() == np.int16
    assert nibabel.aff2axcodes(volume.affine) == ("L", "A", "S")
    assert np.allclose(volume.header.get_zooms(), (0.78125, 0.78125, 6.5))
    above = load(next(row for row in ROWS if row.slice == 0), 1)[0]
    below = load(next(row for row in ROWS if row.image_id == "brain2-ax-013"), 1)[0]
    turned = [
        below,
        below.flip(-1),
        below.flip(-2),
        below.flip(-1, -2),
        below.mT,
        below.mT.flip(-1),
        below.mT.flip(-2),
    ]
    distances = [float((above - other).square().mean()) for other in turned]
    assert (
        min(distances) == distances[0]
    )  # neighbouring slices look alike, if they are turned the same way


def phantom():
    """Marks in an array that counts to the left, back and head."""
    stored = np.zeros((6, 8, 10), np.int16)
    stored[5, 0, 0], stored[0, 7, 0], stored[0, 0, 9] = 1, 2, 3
    return stored


def test_volumes_are_turned_to_left_back_and_head(tmp_path):
    stored = phantom()
    header = {
        "space": "left-posterior-superior",
        "space origin": [0, 0, 0],
        "kinds": ["domain"] * 3,
    }
    nrrd.write(str(tmp_path / "a.nrrd"), stored, header | {"space directions": np.diag([1, 1, 2])})
    nrrd.write(
        str(tmp_path / "b.nrrd"),
        stored[:, ::-1],
        header | {"space directions": np.diag([1, -1, 2])},
    )
    nibabel.save(nibabel.Nifti1Image(stored, np.diag([-1, -1, 1, 1])), tmp_path / "c.nii.gz")
    nibabel.save(
        nibabel.Nifti1Image(
            stored[::-1].transpose(0, 2, 1), np.eye(4)[[0, 2, 1, 3]] * [[1], [-1], [1], [1]]
        ),
        tmp_path / "d.nii.gz",
    )
    for name in ("a.nrrd", "b.nrrd", "c.nii.gz", "d.nii.gz"):
        assert (volume([tmp_path / name]) == stored).all(), name


def test_slices_look_as_radiologists_look():
    """Left of the patient on the right; front (axial) or head (coronal, sagittal) on top; sagittal: front on the left."""
    stored = np.full((64, 64, 64), 0.5, np.float32)
    stored[48:, :16, 48:] = 1.0  # left, front, head
    scan = demo_scans.Scan("x", "MR", "", "train", ("ax", "cor", "sag"))
    for orientation, position, picture in demo_scans.slices(scan, np.pad(stored, 2), (0, 1)):
        inner = demo_scans.fit(picture)[98:-98, 98:-98][:60, :60]
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


def dicom(path, pixels, **tags):
    """A small DICOM file with these pixels."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    scan = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    scan.Rows, scan.Columns = pixels.shape[-2:]
    scan.NumberOfFrames = pixels.size // (scan.Rows * scan.Columns)
    scan.SamplesPerPixel, scan.PixelRepresentation = 1, 0
    scan.BitsAllocated = scan.BitsStored = 16
    scan.HighBit = 15
    scan.PhotometricInterpretation = "MONOCHROME2"
    for name, value in tags.items():
        setattr(scan, name, value)
    scan.PixelData = pixels.astype("<u2").tobytes()
    scan.save_as(path, enforce_file_format=False)


def test_pictures_are_read_as_they_are_displayed(tmp_path):
    """A series in order, frames of one file, a radiograph's negative, rows that run to the front, a JPEG."""
    pixels = np.arange(12).reshape(3, 4)
    for k in range(3):
        dicom(tmp_path / f"series_{k}.dcm", pixels + 100 * k, RescaleSlope=2, RescaleIntercept=-5)
    stack = volume(sorted(tmp_path.glob("series_?.dcm")))
    assert stack.shape == (4, 3, 3) and (stack[..., 2].T == 2 * (pixels + 200) - 5).all()
    dicom(tmp_path / "frames.dcm", np.stack([pixels, pixels + 7]))
    assert (volume([tmp_path / "frames.dcm"])[..., 1].T == pixels + 7).all()
    dicom(tmp_path / "negative.dcm", pixels, PhotometricInterpretation="MONOCHROME1")
    assert (volume([tmp_path / "negative.dcm"])[..., 0].T == -pixels).all()
    dicom(tmp_path / "turned.dcm", pixels, ImageOrientationPatient=[1, 0, 0, 0, -1, 0])
    assert (volume([tmp_path / "turned.dcm"])[..., 0].T == pixels[::-1]).all()
    Image.fromarray(np.full((8, 8), 77, np.uint8)).save(tmp_path / "a.jpg")
    assert (volume([tmp_path / "a.jpg"]) == 77).all()


def test_large_pictures_become_tiles_that_reach_both_ends():
    ramp = np.linspace(0, 1, 1100, dtype=np.float32)[:, None] * np.ones((1, 600), np.float32)
    named = dict(demo_scans.tiles(ramp, (2, 1)))
    assert set(named) == {"2-00", "2-10"} | {f"1-{i}{j}" for i in range(4) for j in range(2)}
    assert all(tile.shape == (256, 256) for tile in named.values())
    assert named["1-00"][0, 0] == 0 and named["1-31"][-1, -1] == 1
    assert (named["1-10"] == ramp[281:537, :256]).all()  # 844 / 3 from the top
    assert not list(demo_scans.tiles(np.full((600, 600), 0.5, np.float32), (1,)))  # shows nothing


def test_held_out_people_of_val_are_listed_and_missing_scans_left_out(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        dicom(tmp_path / f"{name}.dcm", rng.integers(0, 900, (5, 64, 64)))
    scans = (
        demo_scans.Scan("a", "MR", "a.dcm", "train", validation=(2,)),
        demo_scans.Scan("b", "MR", "b.dcm", "val", every=2),
        demo_scans.Scan("c", "MR", "c.dcm", "test"),
    )
    monkeypatch.setattr(demo_scans, "SCANS", scans)
    rows = demo_scans.prepare(tmp_path, tmp_path / "out")
    assert [row["image_id"] for row in rows["train"]] == [
        "a-ax-000",
        "a-ax-004",
    ]  # without the neighbours of 2
    assert [row["image_id"] for row in rows["val"]] == [
        "a-ax-002",
        "b-ax-000",
        "b-ax-002",
        "b-ax-004",
    ]
    assert [row["subject"] for row in rows["held_out"]] == ["b"] * 3 and not rows["test"]
    assert check(tmp_path / "out" / "held_out.csv", checksums=True) == 3
    assert demo_scans.left_out([Archive("x==1", "", {"x/c.dcm": ""})]) == ["c"]


def test_reading_agrees_with_the_libraries():
    scan = next(row for row in ROWS if row.path.endswith(".dcm"))
    raw = pydicom.dcmread(scan.path)
    assert (
        formats.read(scan.path).pixels[0].numpy() == raw.pixel_array.astype(np.float32) - 1024
    ).all()
    stored = np.asanyarray(nibabel.load(SHIPPED / "brain2.nii.gz").dataobj)
    assert (formats.read(SHIPPED / "brain2.nii.gz", 3).pixels[0].numpy() == stored[:, :, 3]).all()
