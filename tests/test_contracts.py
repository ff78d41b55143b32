"""Which stored values become black and white: all of them, once for a volume or series, unless the user says otherwise."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from preparing import call, made, rows

from data import formats
from data.contracts import Contracts
from data.datamodule import ManifestData
from data.dataset import load
from data.files import Refusal
from data.manifest import Row
from data.window import Window, window
from data.window import window as parsed

AIR, BODY, BONE = -1024, 40, 1725
CORNER = np.s_[..., :4, :4]


def series(folder: Path, modality="CT", padding=None, bone=BONE) -> list[Path]:
    """Three slices of 16 x 16: air alone; a body in air; the same with bone. Displayed from -195 to 294, as is the custom."""
    folder.mkdir(parents=True, exist_ok=True)
    slices = np.full((3, 1, 16, 16), AIR, np.float32)
    slices[1:, :, 4:12, 4:12] = BODY
    slices[2, :, 6:8, 6:8] = bone
    paths = [folder / f"{name}.dcm" for name in "abc"]
    for path, pixels in zip(paths, slices):
        meta = formats.Meta("dicom", "int16", window=(-195, 294), series="one")
        formats.write(formats.Image(torch.from_numpy(pixels), meta), path, image_id=path.stem)
        ds = pydicom.dcmread(path)
        ds.Modality = modality
        if padding is not None:
            stored = ds.pixel_array.copy()
            stored[CORNER] = ds.PixelPaddingValue = padding
            ds.PixelData = stored.tobytes()
            ds["PixelPaddingValue"].VR = "SS"
        ds.save_as(path)
    return paths


def ends(path: Path, asked: str = "", index=None, window=None, **trained) -> tuple[float, float]:
    chosen = parsed(asked) if asked else None
    found = load(Row(str(path), "a", slice=index, window=window), 1, Contracts(chosen, trained))[2]
    return found.low, found.high


def test_a_series_has_one_contract_that_holds_all_its_values(tmp_path):
    """A display window loses bone; the slice's own ends would make air bright."""
    paths = series(tmp_path)
    assert {ends(path) for path in paths} == {(AIR, BONE)}
    assert bool((load(Row(str(paths[0]), "a"), 1)[0] == -1).all())
    alone = series(tmp_path / "other")[1]
    for path in alone.parent.glob("[ac].dcm"):
        path.unlink()
    assert ends(alone) == (AIR, BODY)


def test_hounsfield_units_beyond_twelve_bits_are_for_ct_alone(tmp_path):
    assert ends(series(tmp_path / "ct", bone=9000)[0]) == (AIR, 3071)
    assert ends(series(tmp_path / "mr", "MR", bone=9000)[0]) == (AIR, 9000)


def test_padding_is_never_counted(tmp_path):
    paths = series(tmp_path, padding=-3024)
    assert {ends(path) for path in paths} == {(AIR, BONE)}
    assert ends(paths[0], "p0:p100") == (AIR, BONE)


def test_who_decides(tmp_path):
    """The user, the manifest, the prior, the file: in this order."""
    path = series(tmp_path)[2]
    assert ends(path, CT=(-1000.0, 400.0)) == (-1000, 400)
    assert ends(path, MR=(0.0, 1.0)) == (AIR, BONE)
    assert ends(path, window=(-5.0, 5.0), CT=(-1000.0, 400.0)) == (-5, 5)
    assert ends(path, "-7:7", window=(-5.0, 5.0), CT=(-1000.0, 400.0)) == (-7, 7)
    assert ends(path, "full", CT=(-1000.0, 400.0)) == (AIR, BONE)
    assert ends(path, "header", CT=(-1000.0, 400.0)) == (-195, 294)


def test_percentiles_are_of_the_whole_volume(tmp_path):
    stored = np.arange(4 * 5 * 3, dtype=np.int16).reshape(4, 5, 3)
    nibabel.Nifti1Image(stored, np.eye(4)).to_filename(tmp_path / "a.nii.gz")
    assert {ends(tmp_path / "a.nii.gz", index=i) for i in range(3)} == {(0, 59)}
    low, high = ends(tmp_path / "a.nii.gz", "p10:p90", 1)
    # ranks 5.9 and 53.1 of 59, to the nearest; a bin is 59/65535 wide
    assert abs(low - 6) <= 59 / 65535 / 2 + 1e-6 and abs(high - 53) <= 59 / 65535 / 2 + 1e-6


def test_a_volume_is_read_once_for_its_ends(tmp_path, monkeypatch):
    paths, read = series(tmp_path), formats.read
    seen: list[str] = []
    monkeypatch.setattr(
        formats, "read", lambda path, *more: seen.append(str(path)) or read(path, *more)
    )
    for path in [*paths, *paths]:
        load(Row(str(path), "a"), 1)
    assert len(seen) == 2 * len(paths) + len(paths)


@pytest.mark.parametrize(
    "word", ["5:1", "5", "a:b", "p0:p101", "p-1:p5", "p1:5", "nan:1", "0:inf", "", "Header"]
)
def test_windows_that_are_none(word):
    with pytest.raises(Refusal, match="LOW:HIGH, pLOW:pHIGH .* header or full is allowed"):
        window(word)


def test_windows():
    assert window("-1000:400") == Window("values", -1000, 400)
    assert window("p0.5:p99.5") == Window("percentiles", 0.5, 99.5)
    assert window("full") == Window("full")


def test_a_display_window_that_is_not_there_is_told(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((4, 4), np.float32))
    with pytest.raises(Refusal, match="has no display window"):
        ends(tmp_path / "a.npy", "header")


def test_prepare_scales_a_series_as_one(tmp_path):
    series(tmp_path / "in")
    assert call(tmp_path / "in", tmp_path / "out", "--image-size", 16) == 0
    pictures = [made(row.path) for row in rows(tmp_path / "out")]
    air = min(pictures, key=lambda picture: picture.max())
    assert not air.any()  # nothing but air is dark
    bodies = [int(picture[9, 9]) for picture in pictures if picture.any()]
    expected = (BODY - AIR) / (BONE - AIR) * 65535
    assert all(abs(body - expected) <= 1 for body in bodies)
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["train"]["contracts"] == {f"{AIR}:{BONE}": 3}


def test_training_takes_a_window(tmp_path):
    paths = series(tmp_path)
    (tmp_path / "m.csv").write_text("path,window\n" + "".join(f"{path},0:1\n" for path in paths))
    data = ManifestData(str(tmp_path / "m.csv"), window="header").dataset("train")
    assert float(data[1]["image"][0, 9, 9]) == pytest.approx(
        2 * (BODY + 195) / 489 - 1, abs=1e-4
    )  # 16 bits in memory
    with pytest.raises(Refusal, match="window 'no'"):
        ManifestData(str(tmp_path / "m.csv"), window="no").dataset("train")
