"""A first time: a fresh checkout, the README's own commands, one head (NIfTI) and one CT series (DICOM), and no edit."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from test_readme import BLOCKS, QUICK

from data import formats

ROOT = Path(__file__).parents[1]
SIDES = (181, 217, 6)  # of the head; slices that take a second each
CT_SLICES = 7
MAKE_SCAN = ROOT / "models/demo-data/lung2-ax-035.dcm"


def head(path: Path) -> nibabel.Nifti1Image:
    """An ellipsoid with some structure, turned and of three spacings."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in SIDES), indexing="ij")
    inside = x**2 + y**2 + 0.5 * z**2 < 0.8
    pixels = (inside * (400 + 200 * np.sin(9 * x + 5 * z) * np.cos(7 * y))).astype(np.int16)
    affine = np.array(
        [[0, -1.02, 0, 90], [0.99, 0, 0, -126], [0, 0, 3.1, -72], [0, 0, 0, 1]], float
    )
    nibabel.save(nibabel.Nifti1Image(pixels, affine), path)
    return nibabel.load(path)  # whose affine is rounded to float32


def series(folder: Path) -> None:
    """-1024 to 1725 HU, 12 bits, named against the order of the body."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    for i in range(CT_SLICES):
        ds = pydicom.dcmread(MAKE_SCAN)
        y, x = np.mgrid[-1:1:96j, -1:1:80j]
        hu = np.where(x**2 + y**2 < 0.8, 40 + 60 * np.sin(6 * x + i), -1024) + rng.normal(
            0, 8, x.shape
        )
        hu[40:44, 30:50] = 1725
        slope, intercept = float(ds.get("RescaleSlope", 1)), float(ds.get("RescaleIntercept", 0))
        stored = np.round((hu.clip(-1024, 1725) - intercept) / slope)
        ds.PixelData = stored.astype(np.int16 if ds.PixelRepresentation else np.uint16).tobytes()
        ds.Rows, ds.Columns = hu.shape
        ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        ds.PatientID, ds.SeriesInstanceUID, ds.StudyInstanceUID = "CT1", "2.25.11", "2.25.12"
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"2.25.{100 + i}"
        ds.ImageOrientationPatient, ds.ImagePositionPatient = (
            [1, 0, 0, 0, 1, 0],
            [0, 0, 5.0 * (CT_SLICES - i)],
        )
        ds.InstanceNumber = i + 1
        ds.save_as(folder / f"{i:03d}.dcm", enforce_file_format=True)


def by_place(paths) -> dict[float, np.ndarray]:
    """HU of every slice of 96 x 80 pixels, by where it lies."""
    found = {}
    for path in paths:
        ds = pydicom.dcmread(path)
        found[float(ds.ImagePositionPatient[2])] = formats.read(path).pixels[0].numpy()
    return found


def run(place: Path, line: str) -> str:
    door, *words = shlex.split(line)
    assert door == "python", line
    done = subprocess.run(
        [sys.executable, *words], cwd=place, capture_output=True, text=True, timeout=1500
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_first_time(tmp_path):
    place = tmp_path / "checkout"
    place.mkdir()
    archive = subprocess.run(
        ["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True
    ).stdout
    subprocess.run(["tar", "-x", "-C", place], input=archive, check=True)
    scans = place / "SCANS"
    series(scans / "ct")
    source = head(scans / "head.nii.gz")

    # one scan in, one scan out
    first = (
        BLOCKS[0][1].splitlines()[1].replace("models/demo-data/brain2.nii.gz", "SCANS/head.nii.gz")
    )
    assert re.search(r"took \d+\.\d s", run(place, f"{first} --steps 3 --accelerator cpu"))
    restored = nibabel.load(place / "results/head/recon/head.nii.gz")
    assert restored.shape == SIDES
    assert (
        np.array_equal(restored.affine, source.affine)
        and restored.get_data_dtype() == source.get_data_dtype()
    )
    assert (
        np.abs(restored.get_fdata() - source.get_fdata()).mean() < 60
    )  # of 600: denoised, not another image

    # HU beyond the window that the prior knows (-1000 to 400) come out as they went in
    exact = (
        "--measurements --task denoising likelihood.params.sigma_y=0 --steps 3 --accelerator cpu"
    )
    run(place, f"python sample.py --data-root SCANS/ct --save-dir results/ct {exact}")
    truth = by_place((scans / "ct").glob("*.dcm"))
    came = by_place(path for path in (place / "results/ct/recon").rglob("*") if path.is_file())
    assert sorted(came) == sorted(truth) and min(t.min() for t in truth.values()) == -1024
    assert all(np.abs(came[z] - truth[z]).max() <= 0.5 for z in truth)

    # a data set, an autoencoder, a prior, and the test split restored with it
    block = next(text for kind, text in BLOCKS if kind == "sh" and "SCANS" in text)
    assert "add --within-subject" in block
    for line in (line for line in block.splitlines() if line.startswith("python")):
        more = (
            "--within-subject"
            if "scripts/prepare" in line
            else next(more for key, more in QUICK.items() if key in line)
        )
        run(place, f"{line} {more}")
    assert list((place / "results/medical-sr/test/recon").iterdir())
    assert "A LEAK" in (place / "results/medical-sr/test/records.jsonl").read_text()
