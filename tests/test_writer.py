"""Result folders on their own: formats kept, volumes put back together, nothing half done, one run at a time."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from data import dataset, formats, sources
from data.ranges import DEPTH_8, DEPTH_16
from data.series import members
from solvers.operators.grid import Grid
from solvers.run.outputs import file_name, meta_of_result
from solvers.run.panels import panel
from solvers.run.record import Outcome
from solvers.run.results import Results, digest
from solvers.run.scans import Scan
from solvers.run.volumes import reassemble

CONFIG = {"solver": "x"}


def results(folder: Path, config: dict | None = None) -> Results:
    return Results(
        folder, CONFIG if config is None else config, {"versions": {}}, "how it was made"
    )


def read(row) -> Scan:
    return Scan(row.image_id, *dataset.load(row, 1), volume=row.volume)


def restored(scan: Scan, image: torch.Tensor | None = None) -> Outcome:
    image = scan.pixels if image is None else image
    return Outcome(scan, {"image_id": scan.image_id, "status": "ok", "seconds": 1.0}, image)


def volume(path: Path, count: int = 3) -> Path:
    import nibabel

    array = (np.arange(6 * 5 * count).reshape(6, 5, count) * 7 - 300).astype(np.int16)
    affine = np.diag([0.8, 0.9, 3.0, 1.0])
    affine[:3, 3] = (10, -20, 30)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def test_slices_of_a_volume_come_back_as_one_file(tmp_path: Path):
    import nibabel

    (tmp_path / "in").mkdir()
    source = volume(tmp_path / "in" / "head.nii.gz")
    rows = sources.find(tmp_path / "in")
    assert [row.slice for row in rows] == [0, 1, 2]
    folder = results(tmp_path / "out")
    scans = {}
    with folder.opened():
        for row in rows[::-1]:
            image, file, _ = dataset.load(row, 1)
            wide = formats.Image(file.pixels, file.meta)
            scan = Scan(row.image_id, image, wide, dataset.Intensity(-300, 400))
            scan = Scan(
                row.image_id,
                scan.intensity.to_model(file.pixels),
                file,
                scan.intensity,
                volume=row.volume,
            )
            scans[row.image_id] = scan
            folder.commit(restored(scan))
        reassemble(folder, members(rows), scans.get)
    (whole,) = (tmp_path / "out/recon").iterdir()
    assert whole.name == "head.nii.gz" and not (tmp_path / "out/slices").exists()
    before, after = nibabel.load(source), nibabel.load(whole)
    assert np.array_equal(before.dataobj, after.dataobj) and np.allclose(
        before.affine, after.affine
    )


def test_an_incomplete_volume_is_left_alone(tmp_path: Path):
    (tmp_path / "in").mkdir()
    volume(tmp_path / "in" / "head.nii.gz")
    rows, folder = sources.find(tmp_path / "in"), results(tmp_path / "out")
    with folder.opened():
        scans = {row.image_id: read(row) for row in rows[:2]}
        for scan in scans.values():
            folder.commit(restored(scan))
        reassemble(folder, members(rows), scans.get)
    assert (
        not (tmp_path / "out/recon").exists()
        and len(list((tmp_path / "out/slices/recon").iterdir())) == 2
    )


def test_a_dicom_result_is_new_derived_and_says_how(tmp_path: Path):
    import pydicom

    row = next(
        r
        for r in sources.find(Path(__file__).parents[1] / "models/demo-data")
        if r.path.endswith(".dcm")
    )
    image, source, intensity = dataset.load(row, 1)
    folder = results(tmp_path / "out")
    with folder.opened():
        folder.commit(restored(Scan(row.image_id, image, source, intensity)))
        twice = torch.nn.functional.interpolate(image[None], scale_factor=2)[0]
        folder.commit(restored(Scan("twice", image, source, intensity), twice))
    old, new, large = (
        pydicom.dcmread(p) for p in (row.path, *sorted((tmp_path / "out/recon").iterdir()))
    )
    new, large = (new, large) if new.Rows == old.Rows else (large, new)
    assert new.SOPInstanceUID != old.SOPInstanceUID and "DERIVED" in new.ImageType
    assert "how it was made" in str(new)
    hounsfield = old.pixel_array.astype(float) * old.RescaleSlope + old.RescaleIntercept
    # Half a stored unit, and what lies outside the window of the contract is clamped to it.
    restored_hounsfield = new.pixel_array.astype(float) * new.RescaleSlope + new.RescaleIntercept
    assert (
        np.abs(restored_hounsfield - hounsfield.clip(intensity.low, intensity.high)).max() <= 0.51
    )
    assert [float(v) * 2 for v in large.PixelSpacing] == pytest.approx(
        [float(v) for v in old.PixelSpacing]
    )
    assert large.Rows == 2 * old.Rows


def scan(name: str) -> Scan:
    pixels = torch.zeros(1, 4, 4)
    return Scan(
        name, pixels, formats.Image(DEPTH_8.to_stored(pixels), formats.Meta("png")), DEPTH_8
    )


def test_a_sixteen_bit_scan_comes_back_exactly(tmp_path: Path):
    stored = torch.arange(0, 65536, 257, dtype=torch.float32).reshape(1, 16, 16)
    folder = results(tmp_path / "out")
    meta = formats.Meta("png", "uint16")
    with folder.opened():
        folder.commit(
            restored(Scan("a", DEPTH_16.to_model(stored), formats.Image(stored, meta), DEPTH_16))
        )
    assert torch.equal(formats.read(tmp_path / "out/recon/a.png").pixels, stored)


def test_a_line_cut_short_is_not_a_commit_and_failures_are_tried_again(tmp_path: Path):
    folder = results(tmp_path / "out")
    with folder.opened():
        folder.commit(restored(scan("a")))
        folder.commit(Outcome(scan("b"), {"image_id": "b", "status": "failed: no reason"}))
        assert folder.failures() == ["b: no reason"]
    with (folder.folder / "records.jsonl").open("ab") as file:
        file.write(b'{"image_id": "c", "sta')
    assert folder.committed(["a", "c", "b"]).tolist() == [True, False, True]
    with folder.opened():
        assert folder.committed(["a", "b"]).tolist() == [True, False]


def test_numbers_that_json_cannot_say_become_null(tmp_path: Path):
    folder = results(tmp_path / "out")
    with folder.opened():
        outcome = restored(scan("a"))
        outcome.record["psnr"] = float("inf")
        folder.commit(outcome)
    assert json.loads((folder.folder / "records.jsonl").read_text())["psnr"] is None


def test_a_folder_serves_one_configuration_and_one_run(tmp_path: Path):
    with (
        results(tmp_path / "out").opened(),
        pytest.raises(ValueError, match="another run is writing here"),
    ):
        with results(tmp_path / "out").opened():
            pass
    with pytest.raises(ValueError, match="another configuration"):
        with results(tmp_path / "out", {"solver": "y"}).opened():
            pass
    with results(tmp_path / "out", {"solver": "y"}).opened(overwrite=True):
        pass
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1}) != digest({"a": 1, "b": [3]})


@pytest.mark.parametrize("foreign", [b"- a list", b"\xff\xfe", b"{", b"name: mine"])
def test_a_folder_with_another_program_s_config_is_refused(tmp_path: Path, foreign: bytes):
    (tmp_path / "config.yaml").write_bytes(foreign)
    with pytest.raises(ValueError, match="another configuration"), results(tmp_path).opened():
        pass
    assert (tmp_path / "config.yaml").read_bytes() == foreign


def test_overwriting_leaves_other_people_s_files_alone(tmp_path: Path):
    folder = results(tmp_path / "out")
    with folder.opened():
        folder.commit(restored(scan("a")))
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with folder.opened(overwrite=True):
        assert not [*folder.records()] and not list((tmp_path / "out").glob("recon/*"))
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", ".hidden", "x" * 200, "ü"])
def test_ids_become_safe_and_different_file_names(name: str):
    made = file_name(name)
    assert made != name and "/" not in made and not made.startswith(".") and len(made) < 200
    assert file_name(name + "x") != made and file_name("scan-1_a.b") == "scan-1_a.b"


def places(image: formats.Image) -> torch.Tensor:
    """Where the pixels of an upright slice lie, [H,W,3] in mm."""
    rows, columns = image.pixels.shape[-2:]
    along = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"))
    down, right = formats.as_stored(along, image.meta).flatten(1).tolist()
    height, width = formats.as_stored(along, image.meta).shape[-2:]
    index = torch.zeros(4, height, width)
    first, second = (axis for axis in range(3) if axis != image.meta.axis)
    index[first], index[second], index[3] = torch.arange(height)[:, None], torch.arange(width), 1
    at = torch.tensor(image.meta.affine)[:3] @ index.flatten(1)
    found = torch.zeros(rows, columns, 3)
    found[[int(i) for i in down], [int(i) for i in right]] = at.T
    return found


GRIDS = [Grid.square(0, 4), Grid.square(1.5, 4), Grid((2.5, 0.5), (3.0, 2.0)), Grid.square(4, 1)]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("signs", list(product((-1, 1), repeat=2)))
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_result_lies_where_its_samples_were_taken(tmp_path: Path, grid: Grid, signs, axis: int):
    """However the slice is stored: sample [i,j] of what was measured and the pixel that its grid names are one place."""
    import nibabel

    affine = np.diag([0.7 * signs[0], -0.9, 3.0 * signs[1], 1.0])
    affine[:3, 3] = (10, -20, 30)
    nibabel.save(nibabel.Nifti1Image(np.zeros((6, 5, 7), np.int16), affine), tmp_path / "a.nii")
    low = formats.upright(formats.read(tmp_path / "a.nii", 1, axis))
    h, w = low.pixels.shape[-2:]
    size = [int(2 * o + s * (n - 1) + 1) for o, s, n in zip(*grid, (h, w))]
    result = torch.zeros(1, *size)
    high = formats.Image(
        result, meta_of_result(low, result, {"grid": json.loads(json.dumps(grid._asdict()))})
    )
    (y, x), (s, t) = grid
    down, right = torch.arange(h) * s + y, torch.arange(w) * t + x
    fine = places(high)
    step = fine[1, 0] - fine[0, 0], fine[0, 1] - fine[0, 0]
    expected = fine[0, 0] + down[:, None, None] * step[0] + right[:, None] * step[1]
    torch.testing.assert_close(places(low), expected, rtol=0, atol=1e-4)


def test_a_dicom_result_lies_where_its_samples_were_taken(tmp_path: Path):
    import pydicom

    source = next((Path(__file__).parents[1] / "models/demo-data").rglob("*.dcm"))
    low, old = formats.read(source), pydicom.dcmread(source)
    for grid, shift in (
        (Grid.square(0, 4), 0.0),
        (Grid.square(1.5, 4), -0.375),
        (Grid.square(4, 1), -4.0),
    ):
        size = [int(2 * o + s * n) for o, s, n in zip(*grid, low.pixels.shape[-2:])]
        fine = torch.zeros(1, *size)
        formats.write(
            formats.Image(fine, meta_of_result(low, fine, {"grid": grid._asdict()})),
            tmp_path / "a.dcm",
        )
        new = pydicom.dcmread(tmp_path / "a.dcm")
        spacing = np.array(old.PixelSpacing, float)
        assert np.allclose(np.array(new.PixelSpacing, float), spacing / grid.spacing[0])
        across, down = np.split(np.array(old.ImageOrientationPatient, float), 2)
        moved = np.array(new.ImagePositionPatient, float) - np.array(
            old.ImagePositionPatient, float
        )
        assert np.allclose(moved, shift * (down * spacing[0] + across * spacing[1]), atol=1e-3)


@pytest.mark.parametrize("offset", [0.0, 1.5, 3.0])
def test_the_panel_shows_samples_where_they_lie(offset: float):
    """Black to white between sample 1 and 2 of 8: at pixels offset + 4 i of 32, drawn 8 times as large, lies their middle."""
    y = -torch.ones(1, 8, 8)
    y[..., 2:] = 1
    seen = Outcome(scan("a"), {}, torch.zeros(1, 32, 32), y=y, grid=Grid.square(offset, 4))
    picture = np.asarray(panel(seen).convert("L"))[22 + 128, 8 : 8 + 256]
    white = int((picture > 200).argmax())
    assert white == pytest.approx((offset + 6 + 0.5) * 8, abs=8) and (white == 64) == (
        offset == 1.5
    )
