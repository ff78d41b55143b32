"""Volume in, volume out, slice by slice: one result of one input, whatever its format, and what lies beside slices."""

import json
from pathlib import Path
from types import SimpleNamespace

import nibabel
import nrrd
import numpy as np
import PIL.Image
import pydicom
import pytest
import tiny
import torch
from pydicom.uid import MediaStorageDirectoryStorage

import sample
from data import formats, sources
from data.formats import Image, Meta
from ldm import config as configuration
from solvers.run import planes


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    place = tiny.world(tmp_path_factory.mktemp("world"))
    (place / "baseline.yaml").write_text(
        configuration.dump({"solver": {"target": "solvers.baseline.Baseline", "params": {}}})
    )
    return place


def run(world: Path, data: Path, out: Path, *more: str) -> int:
    """Denoising by the baseline: the result is the measurement, and two draws are one."""
    words = tiny.words(
        world,
        out,
        "--data-root",
        str(data),
        "--slicewise",
        *more,
        solver="baseline",
        task="denoising",
    )
    return sample.main(words)


def smooth(*shape: int) -> np.ndarray:
    grid = np.meshgrid(*(np.linspace(0, 3, n) for n in shape), indexing="ij")
    return (1000 * sum(np.sin(g + i) for i, g in enumerate(grid))).astype(np.int16)


def series(
    folder: Path,
    count: int = 6,
    tilt: float = 0.0,
    way: int = 1,
    name: str = "s",
    step: float = 3.0,
) -> list[Path]:
    """16 x 16 axial CT slices `step` mm apart, rows moved by `tilt` mm a slice (a tilted gantry)."""
    folder.mkdir(parents=True, exist_ok=True)
    values, files = smooth(16, 16, count), []
    for k in range(count):
        affine = np.array(
            [[0, -0.8, 0, 5], [-0.8, 0, 0, 7 - tilt * k], [0, 0, -1, step * k], [0, 0, 0, 1.0]]
        )
        if way > 1:  # another orientation
            affine = affine[[2, 0, 1, 3]]
        meta = Meta(
            "dicom",
            "int16",
            series=name,
            spacing=(0.8, 0.8),
            affine=tuple(map(tuple, affine.tolist())),
            index=k,
        )
        path = folder / f"{(7 * k) % 11:02d}-{name}{way}.dcm"
        formats.write(
            Image(torch.from_numpy(values[..., k])[None].float(), meta),
            path,
            image_id=f"{name} {way} {k}",
        )
        files.append(path)
    return files


def test_one_volume_gives_one_result_named_as_it_is(world, tmp_path):
    affine = np.array([[0, 0, 5.0, 7], [-2.4, 0, 0, 30], [0, 2.8, 0, -40], [0, 0, 0, 1]])
    (tmp_path / "in").mkdir()
    nibabel.save(nibabel.Nifti1Image(smooth(16, 12, 5), affine), tmp_path / "in/head.nii")
    directions = np.diag([0.8, 0.9, 3.0])
    nrrd.write(
        str(tmp_path / "in/chest.nrrd"),
        smooth(16, 12, 3),
        {
            "space": "left-posterior-superior",
            "space directions": directions,
            "space origin": np.zeros(3),
        },
    )
    picture = torch.from_numpy(smooth(16, 16)).float()[None].abs()
    pages = [Image(picture + k, Meta("tiff", "uint16", index=k, count=4)) for k in range(4)]
    formats.reassemble(pages[::-1], tmp_path / "in/cells.tif")
    assert run(world, tmp_path / "in", tmp_path / "out", "--num-samples", "2") == 0
    names = {"head.nii", "chest.nrrd", "cells.tif"}
    assert {path.name for path in (tmp_path / "out/recon").iterdir()} == names
    assert {path.name for path in (tmp_path / "out/std").iterdir()} == names
    assert {path.name for path in (tmp_path / "out/panels").iterdir()} == {
        "head.png",
        "chest.png",
        "cells.png",
    }
    assert (
        len(list((tmp_path / "out/samples").iterdir())) == 6
        and not (tmp_path / "out/slices").exists()
    )
    after, spread = (nibabel.load(tmp_path / f"out/{kind}/head.nii") for kind in ("recon", "std"))
    assert np.array_equal(after.affine, affine.astype(np.float32)) and np.array_equal(
        spread.affine, after.affine
    )
    assert (
        after.get_data_dtype() == np.int16
        and spread.get_data_dtype() == np.float32
        and after.shape == (16, 12, 5)
    )
    assert np.array_equal(
        nrrd.read(str(tmp_path / "out/recon/chest.nrrd"))[1]["space directions"], directions
    )
    assert formats.count(tmp_path / "out/recon/cells.tif") == 4
    for k in range(4):
        before = formats.read(tmp_path / "in/cells.tif", k).pixels
        assert (
            0
            < float(
                (formats.read(tmp_path / "out/recon/cells.tif", k).pixels - before).abs().median()
            )
            < 4000
        )
    records = tiny.records(tmp_path / "out")
    assert len(records) == 12 and {r["files"]["recon"] for r in records.values()} == {
        f"recon/{name}" for name in names
    }
    volumes = {
        v["volume"]: v for v in json.loads((tmp_path / "out/summary.json").read_text())["volumes"]
    }
    assert volumes["head"]["slices"] == 5 and volumes["head"]["psnr"] > 20


def test_results_come_back_as_one_series_and_no_two_objects_are_the_same(world, tmp_path):
    series(tmp_path / "in")
    assert run(world, tmp_path / "in", tmp_path / "out", "--num-samples", "2", "--slices") == 0
    (folder,) = (tmp_path / "out/recon").iterdir()
    assert folder.name.startswith("series-")
    found = [pydicom.dcmread(path) for path in sorted((tmp_path / "out").rglob("*.dcm"))]
    assert (
        len({ds.SOPInstanceUID for ds in found}) == len(found) == 6 * (1 + 1 + 2) + 6 * 3
    )  # slices' std is .npy
    recon = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    assert [float(ds.ImagePositionPatient[2]) for ds in recon] == [
        3.0 * k for k in range(6)
    ]  # along the normal
    assert len({ds.SeriesInstanceUID for ds in recon}) == 1
    assert all(ds.SeriesDescription.startswith("denoising-baseline, prior ") for ds in recon)
    (std,) = (tmp_path / "out/std").iterdir()
    spread = pydicom.dcmread(next(std.iterdir()))
    assert (
        spread.SeriesDescription.startswith("std: denoising")
        and spread.SeriesInstanceUID != recon[0].SeriesInstanceUID
    )
    assert 0 <= float((spread.pixel_array * float(spread.RescaleSlope)).max()) < 1000
    assert len(list((tmp_path / "out/slices/panels").iterdir())) == 6


def test_what_lies_beside_slices_is_named_once_and_passed_over(world, tmp_path, capsys):
    files = series(tmp_path / "in")
    for k, path in enumerate(series(tmp_path / "loc", 2, way=2)):
        ds = pydicom.dcmread(path)
        ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        ds.save_as(tmp_path / f"in/loc{k}.dcm")
    report = pydicom.dcmread(files[0])
    del report.Rows, report.Columns, report.PixelData
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.22"
    report.save_as(tmp_path / "in/report.dcm")
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    report.save_as(tmp_path / "in/DICOMDIR")
    (tmp_path / "in/empty.dcm").touch()
    assert run(world, tmp_path / "in", tmp_path / "out") == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "passed over" in line]
    assert len(said) == 4 and all(
        sum(word in line for line in said) == 1 for word in ("loc0", "DICOMDIR", "report", "empty")
    )
    assert "and 1 more" in next(line for line in said if "localizer" in line)
    (folder,) = (tmp_path / "out/recon").iterdir()
    assert len(list(folder.iterdir())) == 6


def test_a_localizer_alone_is_an_image_and_orientations_are_volumes_apart(world, tmp_path):
    series(tmp_path / "in")
    series(tmp_path / "in", 4, way=2)
    (lone,) = series(tmp_path / "other", 1)
    ds = pydicom.dcmread(lone)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    ds.save_as(lone)
    assert len(sources.find(tmp_path / "other")) == 1
    assert run(world, tmp_path / "in", tmp_path / "out") == 0
    assert sorted(len(list(folder.iterdir())) for folder in (tmp_path / "out/recon").iterdir()) == [
        4,
        6,
    ]


@pytest.mark.parametrize("kind", ["nifti", "dicom"])
def test_a_first_look_is_a_smaller_volume_in_its_place(world, tmp_path, kind):
    """Slices 1, 3 of `--slice-range 1:5 --every 2`: where they were, 2 times as far apart."""
    affine = np.array([[1.0, 0.2, 0, 3], [0, 1, 0.5, 4], [0, 0, 3, 5], [0, 0, 0, 1]])
    (tmp_path / "in").mkdir()
    if kind == "nifti":
        nibabel.save(nibabel.Nifti1Image(smooth(16, 12, 6), affine), tmp_path / "in/head.nii.gz")
    else:
        series(tmp_path / "in", tilt=0.5)
    assert (
        run(world, tmp_path / "in", tmp_path / "out", "--slice-range", "1:5", "--every", "2") == 0
    )
    (made,) = (tmp_path / "out/recon").iterdir()
    if kind == "nifti":
        after = nibabel.load(made)
        assert after.shape == (16, 12, 2)
        assert np.allclose(after.affine @ (0, 0, 1, 1), affine @ (0, 0, 3, 1)) and np.allclose(
            after.affine[:, 0], affine[:, 0]
        )
        assert np.allclose(after.affine @ (0, 0, 0, 1), affine @ (0, 0, 1, 1))
    else:
        found = [pydicom.dcmread(path) for path in sorted(made.iterdir())]
        assert [[float(v) for v in ds.ImagePositionPatient[1:]] for ds in found] == [
            [-7 + 0.5 * k, 3.0 * k] for k in (1, 3)
        ]
    with_all = tiny.records(tmp_path / "out")
    assert len(with_all) == 2
    assert run(world, tmp_path / "in", tmp_path / "out") == 2  # of another choice


def test_places_between_slices_are_exact_and_keep_a_tilt(tmp_path):
    """Through a tilted stack the new corners lie on the line of the old ones; spacing and thickness follow."""
    metas = [formats.read(path).meta for path in series(tmp_path / "in", 4, tilt=0.5)]
    made = formats.stacked(metas, -0.25, 0.5, 8)
    for k, meta in enumerate(made):
        formats.write(Image(torch.zeros(1, 16, 16), meta), tmp_path / f"{k}.dcm", image_id=str(k))
        ds = pydicom.dcmread(tmp_path / f"{k}.dcm")
        place = -0.25 + 0.5 * k
        assert [float(v) for v in ds.ImagePositionPatient] == pytest.approx(
            [-5, -7 + 0.5 * place, 3 * place], abs=1e-9
        )
        assert float(ds.SpacingBetweenSlices) == pytest.approx(
            3 / 2
        )  # along the normal (0018,0088)
    assert len({meta.source for meta in made}) == 8
    assert formats.spacing(metas) == pytest.approx((np.hypot(3, 0.5), 0.8, 0.8))


def test_slices_that_were_left_out_are_not_counted_as_distance(tmp_path):
    """Of every second slice SpacingBetweenSlices is twice what the scanner wrote; of all it is the scanner's own word."""
    metas = bare(tmp_path / "in")
    for every, apart in ((1, 3), (2, 6)):
        chosen = metas[::every]
        made = formats.stacked(chosen)
        out = tmp_path / f"every {every}"
        formats.reassemble([Image(torch.zeros(1, 16, 16), meta) for meta in made], out)
        for k, path in enumerate(sorted(out.iterdir())):
            ds = pydicom.dcmread(path)
            assert ds.SpacingBetweenSlices == apart and ds.SliceThickness == 4
            assert float(ds.ImagePositionPatient[2]) == pytest.approx(3 * every * k)


def bare(folder: Path, *left_out: str) -> list[formats.Meta]:
    """Of a tilted series with thickness, distance and locations, without the elements named."""
    for k, path in enumerate(files := series(folder, 4, tilt=0.5)):
        ds = pydicom.dcmread(path)
        ds.SliceThickness, ds.SpacingBetweenSlices, ds.SliceLocation = 4, 3, 3 * k
        for keyword in left_out:
            delattr(ds, keyword)
        ds.save_as(path)
    return [formats.read(path).meta for path in files]


def between(folder: Path, metas: list[formats.Meta]) -> list[pydicom.Dataset]:
    """Slices half as far apart as those of `metas`, written as a series."""
    made = formats.stacked(metas, -0.25, 0.5, 8)
    formats.reassemble([Image(torch.zeros(1, 16, 16), meta) for meta in made], folder)
    return [pydicom.dcmread(path) for path in sorted(folder.iterdir())]


@pytest.mark.parametrize(
    "left_out", [["PixelSpacing"], ["PixelSpacing", "ImageOrientationPatient"]]
)
def test_places_between_slices_need_no_size_of_pixels(tmp_path, left_out):
    made = between(tmp_path / "out", bare(tmp_path / "in", *left_out))
    for place, ds in zip(np.arange(8) / 2 - 0.25, made, strict=True):
        assert [float(v) for v in ds.ImagePositionPatient] == pytest.approx(
            [-5, -7 + 0.5 * place, 3 * place], abs=1e-9
        )
        assert float(ds.SpacingBetweenSlices) == pytest.approx(1.5)
        assert float(ds.SliceThickness) == pytest.approx(1.5)
        assert float(ds.SliceLocation) == pytest.approx(3 * place)


@pytest.mark.parametrize("located", [True, False])
def test_slices_without_a_place_keep_true_distances(tmp_path, located):
    """Thickness and distance are halved; locations lie between those of the neighbours, where there are any."""
    left_out = ["ImagePositionPatient", *(["SliceLocation"] if not located else [])]
    made = between(tmp_path / "out", bare(tmp_path / "in", *left_out))
    for place, ds in zip(np.arange(8) / 2 - 0.25, made, strict=True):
        assert (ds.SliceThickness, ds.SpacingBetweenSlices) == (2, 1.5)
        assert "ImagePositionPatient" not in ds and ("SliceLocation" in ds) == located
        assert not located or float(ds.SliceLocation) == pytest.approx(3 * place)


def test_one_location_for_all_slices_is_left_out(tmp_path):
    metas = bare(tmp_path / "in", "ImagePositionPatient")
    made = between(tmp_path / "out", [metas[0]] * 4)
    assert len(made) == 8 and not any("SliceLocation" in ds for ds in made)


def test_progress_counts_volumes_and_slices(world, tmp_path, monkeypatch):
    from solvers.run import progress

    monkeypatch.setattr(progress, "RARELY", 0.0)
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        nibabel.save(nibabel.Nifti1Image(smooth(16, 16, 3), np.eye(4)), tmp_path / f"in/{name}.nii")
    lines: list[str] = []
    monkeypatch.setattr(
        progress.Bar, "set_postfix_str", lambda self, words, refresh=True: lines.append(words)
    )
    assert run(world, tmp_path / "in", tmp_path / "out") == 0
    assert "volume 2/2 slice 3/3" in " ".join(lines)


def test_bad_choices_are_one_line(world, tmp_path, capsys):
    tiny.scans(tmp_path / "flat", 1)
    (tmp_path / "in").mkdir()
    nibabel.save(nibabel.Nifti1Image(smooth(16, 16, 3), np.eye(4)), tmp_path / "in/a.nii")
    for words, says in (
        (["--slice-range", "5:2"], "not of the form 40:60"),
        (["--slice-range", "8:9"], "leaves no slice of a, which has 3"),
    ):
        assert run(world, tmp_path / "in", tmp_path / "out", *words) == 2 and says in tiny.refusal(
            capsys
        )
    assert run(
        world, tmp_path / "flat", tmp_path / "out", "--every", "2"
    ) == 2 and "there is none" in tiny.refusal(capsys)


def test_a_panel_shows_measurements_that_are_pictures_alone(monkeypatch):
    """Those of CT, on the scale of images, were white."""
    shown = []
    monkeypatch.setattr(
        planes, "tile", lambda title, *rest: shown.append(title) or PIL.Image.new("L", (4, 4))
    )
    cube = torch.zeros(1, 3, 8, 8)
    scan = SimpleNamespace(slices=[SimpleNamespace(source=None)])
    outcome = SimpleNamespace(image=cube, truth=cube, image_like=True, scan=scan)
    monkeypatch.setattr(planes, "pictures", lambda _: {"truth": ("truth", cube, 0.0, 1.0)})
    monkeypatch.setattr(planes, "_spacing", lambda _: (1.0, 1.0, 1.0))
    monkeypatch.setattr(planes, "_upward", lambda _: lambda plane, axis: plane)
    for y, due in (cube, 6), (28 + cube, 3):
        outcome.y = y
        shown.clear()
        planes.planes(outcome)
        assert len(shown) == due
