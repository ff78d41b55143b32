"""Files that are opened to be looked at: what a scanner measured is told from images, and hostile archives are refused."""

import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
import yaml

import palimpsest as P
from data.opened import Opened

SHIPPED = Path(__file__).parents[1] / "models/demo-data"
FAN = {"beam": "parallel", "angles": {"start": 0, "arc": 180}, "angle_unit": "degrees"}
FAN |= {"direction": "counterclockwise", "pitch": 1.0, "bins_run": "right", "values": "integrals"}
FAN |= {"image_size": 16, "pixel_size": 1.0, "mu_water": 0.02}


def zipped(folder: Path, **members: bytes) -> Path:
    """members: by name, `_` for the dot before their ending."""
    with zipfile.ZipFile(folder / "scan.zip", "w") as archive:
        for name, content in members.items():
            archive.writestr("Mustermann/" + ".".join(name.rsplit("_", 1)), content)
    return folder / "scan.zip"


def npy(folder: Path, array: np.ndarray) -> bytes:
    np.save(folder / "saved.npy", array)
    return (folder / "saved.npy").read_bytes()


def kspace(*shape: int) -> np.ndarray:
    image = np.zeros(shape, np.complex64)
    image[..., 4:12, 4:12] = 1
    return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image, (-2, -1))), (-2, -1))


def test_complex_numbers_are_measured(tmp_path: Path):
    np.save(tmp_path / "scan.npy", kspace(3, 2, 16, 16))
    opened = Opened.of(tmp_path / "scan.npy")
    assert (opened.holds, len(opened.rows)) == ("k-space", 3)
    pixels, black, white = opened.look(1)
    assert pixels.shape == (1, 16, 16) and (black, white) == (-80, 0)
    assert float(pixels.max()) == 0 and float(pixels.min()) == -80


def test_kspace_comes_with_what_describes_it(tmp_path: Path):
    noise = npy(tmp_path, np.ones((2, 50), np.complex64))
    data, said = npy(tmp_path, kspace(2, 16, 16)), b"field_of_view: [32, 32]\nnoise: n.npy\n"
    opened = Opened.of(zipped(tmp_path, k_npy=data, k_yaml=said, n_npy=noise))
    assert (opened.holds, opened.path.name) == ("k-space", "scan.npy")
    assert "Mustermann" not in str(opened.path.relative_to(tmp_path))


def test_a_sinogram_comes_with_its_geometry(tmp_path: Path):
    data = npy(tmp_path, np.ones((8, 24), np.float32))
    opened = Opened.of(zipped(tmp_path, s_npy=data, s_yaml=yaml.dump(FAN).encode()))
    assert (opened.holds, opened.look(0)[0].shape) == ("sinogram", (1, 8, 24))


def test_a_series_of_images_holds_no_projections(tmp_path: Path):
    scan = pydicom.dcmread(SHIPPED / "lung2-ax-035.dcm")
    members = {}
    for i in range(2):
        scan.SOPInstanceUID = scan.file_meta.MediaStorageSOPInstanceUID = f"1.2.{i + 1}"
        scan.ImagePositionPatient = [0, 0, 2.5 * i]
        scan.save_as(tmp_path / "one.dcm")
        members[f"{i}_dcm"] = (tmp_path / "one.dcm").read_bytes()
    opened = Opened.of(zipped(tmp_path, **members))
    assert (opened.holds, len(opened.rows)) == ("images", 2)


@pytest.mark.parametrize("name", ["/etc/passwd", "../other.npy", '"\\x2fetc\\x2fx.npy"'])
def test_a_yaml_names_no_file_of_the_computer(tmp_path: Path, name: str):
    data, said = npy(tmp_path, kspace(2, 16, 16)), f"noise: {name}\n".encode()
    with pytest.raises(P.Refusal, match="names without a folder are allowed"):
        Opened.of(zipped(tmp_path, k_npy=data, k_yaml=said))


@pytest.mark.parametrize(
    "members, reason",
    [
        ({}, "holds no DICOM files, no pictures, and no measured data"),
        ({"letter_txt": b"x"}, "holds no DICOM files, no pictures, and no measured data"),
        ({"a_npy": b"", "a_yaml": b"", "b_npy": b"", "b_yaml": b""}, "holds several measurements"),
    ],
)
def test_an_archive_of_nothing_is_refused(tmp_path: Path, members: dict, reason: str):
    with pytest.raises(P.Refusal, match=reason):
        Opened.of(zipped(tmp_path, **members))
