"""Folders as users have them: results among images, files that changed, series given twice, odd names, colours, k-space."""

import json
import shutil
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pydicom
import pytest
import tiny
import torch

import sample
from data import formats, sources
from data.files import Refusal
from data.formats import Image, Meta
from data.formats.image import to_stored
from data.ranges import DEPTH_8
from data.seeding import Noise
from data.series import Passed
from ldm import config as configuration
from solvers.baseline import Baseline
from solvers.run.outputs import file_name
from solvers.run.record import Outcome
from solvers.run.results import Results
from solvers.run.scans import Scan
from solvers.run.volumes import reassemble


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    place = tiny.world(tmp_path_factory.mktemp("world"))
    (place / "baseline.yaml").write_text(
        configuration.dump({"solver": {"target": "solvers.baseline.Baseline", "params": {}}})
    )
    return place


def run(world: Path, data: Path, out: Path, *more: str, solver: str = "baseline") -> int:
    return sample.main(tiny.words(world, out, "--data-root", str(data), *more, solver=solver))


def dicom(path: Path, seed: str, series: str = "s", **more) -> Path:
    """16 x 16 of signed numbers, of a series."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = (1000 * Noise([seed], "noise").uniform((1, 1, 16, 16))[0]).round()
    meta = Meta("dicom", "int16", window=(0, 1000), series=series, **more)
    formats.write(Image(pixels, meta), path.with_suffix(".dcm"), image_id=seed)
    return path.with_suffix(".dcm").rename(path)


def volume(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(
        nibabel.Nifti1Image(array, np.diag([0.8, 0.9, 3, 1]) if affine is None else affine), path
    )
    return path


def smooth(*shape: int) -> np.ndarray:
    grid = np.meshgrid(*(np.linspace(0, 3, n) for n in shape), indexing="ij")
    return (1000 * sum(np.sin(g + i) for i, g in enumerate(grid))).astype(np.int16)


def test_what_is_read_is_never_cleared(world, tmp_path, capsys):
    assert run(world, world / "scans", tmp_path / "out") == 0
    inside = tmp_path / "out/measurement"
    before = sorted(inside.iterdir())
    assert run(world, inside, tmp_path / "out", "--measurements", "--overwrite") == 2
    assert "results go there; choose another --save-dir" in tiny.refusal(capsys)
    assert sorted(inside.iterdir()) == before
    (tmp_path / "mine/recon").mkdir(parents=True)
    (tmp_path / "mine/recon/thesis.txt").touch()
    assert run(world, world / "scans", tmp_path / "mine", "--overwrite") == 2
    assert (
        "recon was not written by sample.py" in tiny.refusal(capsys)
        and (tmp_path / "mine/recon/thesis.txt").exists()
    )


def test_results_below_the_images_are_no_images(world, tmp_path, capsys):
    data = tiny.scans(tmp_path / "data", 2)
    for _ in range(2):
        assert run(world, data, data / "results") == 0
        assert len(tiny.records(data / "results")) == 2
    (data / "notes.txt").touch()
    assert run(world, data, data / "results") == 0
    assert "note: passed over, no image by its name: " in capsys.readouterr().out


def test_a_run_that_goes_on_with_other_images_makes_the_volume(world, tmp_path):
    volume(tmp_path / "data/head.nii.gz", smooth(16, 16, 4))
    assert run(world, tmp_path / "data", tmp_path / "out", "--limit", "2") == 0
    assert (
        not (tmp_path / "out/recon").exists()
        and len(list((tmp_path / "out/slices/recon").iterdir())) == 2
    )
    assert run(world, tmp_path / "data", tmp_path / "out", "--start", "2") == 0
    assert [path.name for path in (tmp_path / "out/recon").iterdir()] == ["head.nii.gz"]
    (tmp_path / "data/head.nii.gz").rename(tmp_path / "data/other.nii.gz")
    assert (
        run(world, tmp_path / "data", tmp_path / "out") == 0
    )  # the first head is gone, its result is left alone
    assert {path.name for path in (tmp_path / "out/recon").iterdir()} == {
        "head.nii.gz",
        "other.nii.gz",
    }
    assert json.loads((tmp_path / "out/summary.json").read_text())["images"] == 8


def test_an_input_that_changed_is_restored_again(world, tmp_path, capsys):
    dicom(tmp_path / "data/a.dcm", "one"), dicom(tmp_path / "data/b.dcm", "two", position=1.0)
    assert run(world, tmp_path / "data", tmp_path / "out") == 0
    first = tiny.records(tmp_path / "out")
    dicom(tmp_path / "data/a.dcm", "three")
    assert run(world, tmp_path / "data", tmp_path / "out") == 0
    second = tiny.records(tmp_path / "out")
    assert "note: a: is another file than was restored before" in capsys.readouterr().out
    assert (
        first["a"]["psnr"] != second["a"]["psnr"]
        and second["b"]["contract"] == second["a"]["contract"]
    )
    assert (
        second["a"]["input_sha256"]
        == formats.checksum(tmp_path / "data/a.dcm")
        != first["a"]["input_sha256"]
    )


def test_slices_that_lie_apart_or_twice_in_one_place_come_back_as_a_series(world, tmp_path):
    """Two slices in one place and a gap are no volume to restore as one, but one result all the same."""
    affine = tuple(map(tuple, np.diag([1.0, 1.0, 1.0, 1.0]).tolist()))
    for name, position in (("1", 0.0), ("2", 0.0), ("3", 2.0)):
        moved = (*affine[:2], (0.0, 0.0, 1.0, position), affine[3])
        dicom(tmp_path / f"data/{name}.dcm", name, spacing=(1.0, 1.0), affine=moved)
    assert run(world, tmp_path / "data", tmp_path / "out") == 0
    (made,) = (tmp_path / "out/recon").iterdir()
    assert len(list(made.iterdir())) == 3


def test_a_series_that_was_copied_is_two_volumes_of_other_instances(world, tmp_path):
    for name in ("1", "2"):
        dicom(tmp_path / f"data/once/{name}.dcm", name)
    shutil.copytree(tmp_path / "data/once", tmp_path / "data/twice")
    assert run(world, tmp_path / "data", tmp_path / "out", "--num-samples", "2") == 0
    files = [path for path in (tmp_path / "out").rglob("*.dcm")]
    assert (
        len({pydicom.dcmread(path).SOPInstanceUID for path in files}) == len(files) == 2 * 2 * 4
    )  # mean, std, two draws


def test_a_series_whose_slice_failed_is_not_put_together(world, tmp_path, capsys):
    files = [dicom(tmp_path / f"data/{i}.dcm", str(i)) for i in range(3)]
    files[1].write_bytes(files[1].read_bytes()[:-100])
    assert run(world, tmp_path / "data", tmp_path / "out") == 1
    assert ": 1 failed" in capsys.readouterr().out
    assert (
        not (tmp_path / "out/recon").exists()
        and len(list((tmp_path / "out/slices/recon").iterdir())) == 2
    )


def test_files_of_several_frames_in_one_series_are_several_volumes(world, tmp_path):
    for name in ("first", "second"):
        path = dicom(tmp_path / f"data/{name}.dcm", name)
        ds = pydicom.dcmread(path)
        ds.NumberOfFrames, ds.PixelData = 2, ds.PixelData * 2
        ds.save_as(path)
    assert run(world, tmp_path / "data", tmp_path / "out") == 0
    written = [pydicom.dcmread(path) for path in (tmp_path / "out/recon").iterdir()]
    assert [int(ds.get("NumberOfFrames") or 1) for ds in written] == [2, 2]
    assert len({ds.SOPInstanceUID for ds in written}) == 2, (
        "a volume is no instance of its first frame"
    )


def test_two_patients_results_are_two_instances(world, tmp_path):
    """The same path on two days, as in a container."""
    uids = []
    for seed in ("one", "two"):
        dicom(tmp_path / "data/IM1.dcm", seed)
        assert run(world, tmp_path / "data", tmp_path / seed) == 0
        uids.append(pydicom.dcmread(tmp_path / seed / "recon/IM1.dcm").SOPInstanceUID)
    assert uids[0] != uids[1]


def test_files_named_by_their_uid_and_links_to_folders_are_found(tmp_path):
    for i in (1, 2):
        dicom(tmp_path / f"data/1.2.840.113619.{i}", str(i))
    dicom(tmp_path / "elsewhere/slice", "3")
    (tmp_path / "data/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "data")  # in a circle
    (tmp_path / "data/version.2").write_text("no image")
    passed: list[Passed] = []
    found = [row.image_id for row in sources.find(tmp_path / "data", passed=passed)]
    assert found == ["1.2.840.113619.1", "1.2.840.113619.2", "link__slice"] and [
        one.path.name for one in passed
    ] == ["version.2"]


def test_a_name_that_is_no_text_is_no_hindrance(world, tmp_path):
    data = tiny.scans(tmp_path / "data", 1)
    (data / "scan0.png").rename(data / "caf\udce9.png")
    assert run(world, data, tmp_path / "out") == 0
    assert (tmp_path / "out/report.html").is_file() and list(tiny.restored(tmp_path / "out")) == [
        file_name("caf\udce9") + ".png"
    ]


def test_eight_bits_with_a_scale_are_seen_whole(tmp_path):
    path = dicom(tmp_path / "a.dcm", "a")
    ds = pydicom.dcmread(path)
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation, ds.RescaleSlope, ds.RescaleIntercept = 7, 0, 10, -1024
    ds.PixelData = bytes(range(256))
    del ds.WindowCenter, ds.WindowWidth
    ds.save_as(path)
    assert formats.read(path).meta.window == (-1024, 10 * 255 - 1024)


@pytest.mark.parametrize("kind", ["nifti", "nrrd", "dicom"])
def test_colours_that_became_gray_are_gray_in_the_file(world, tmp_path, kind):
    colours = (
        (40 * Noise(["a"], "noise").uniform((1, 16, 12, 2, 3))[0] + 100).numpy().astype(np.uint8)
    )
    (tmp_path / "data").mkdir()
    if kind == "nifti":
        volume(
            tmp_path / "data/a.nii.gz",
            colours.view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0],
        )
    elif kind == "nrrd":
        directions = [[np.nan] * 3, [0.7, 0, 0], [0, 0.8, 0], [0, 0, 3]]
        header = {
            "kinds": ["RGB-color", *["domain"] * 3],
            "space": "left-posterior-superior",
            "space directions": directions,
        }
        nrrd.write(str(tmp_path / "data/a.nrrd"), np.moveaxis(colours, -1, 0), header)
    else:
        pixels = torch.from_numpy(colours[:, :, 0].transpose(2, 0, 1).copy()).float()
        formats.write(
            Image(pixels, Meta("dicom", "uint8", photometric="RGB")), tmp_path / "data/a.dcm"
        )
    assert run(world, tmp_path / "data", tmp_path / "out") == 0
    for path in (tmp_path / "out/recon").iterdir():
        back = formats.read(path, 0)
        assert (
            len(back.pixels) == 1
            and back.meta.photometric in ("gray", "MONOCHROME2")
            and back.meta.dtype == "uint8"
        )
        if kind == "nrrd":
            assert np.allclose(np.abs(np.diag(np.array(back.meta.affine)))[:3], [0.7, 0.8, 3])


def test_a_real_image_of_complex_measurements_is_real(world, tmp_path):
    (tmp_path / "data").mkdir()
    image = np.zeros((16, 16))
    image[4:11, 5:12] = 0.8
    k = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image), norm="ortho"))
    noise = Noise(["a"], "noise").normal((1, 2, 16, 16))[0].numpy()
    k = k[None] + 0.05 * (noise[:1] + 1j * noise[1:])
    np.save(tmp_path / "data/k.npy", k.astype(np.complex64))
    np.save(tmp_path / "mask.npy", np.ones((16, 16), np.float32))
    tiny.task(tmp_path / "mri.yaml", "MRI", mask=str(tmp_path / "mask.npy"))
    assert (
        run(
            world,
            tmp_path / "data",
            tmp_path / "out",
            "--measurements",
            "--task",
            str(tmp_path / "mri.yaml"),
        )
        == 0
    )
    found = np.load(tmp_path / "out/recon/k.npy")
    assert found.shape == (1, 16, 16) and found.dtype == np.float32
    with pytest.raises(ValueError, match="1 channels cannot be written as complex numbers"):
        to_stored(Image(torch.zeros(1, 4, 4), Meta("npy", "complex64", complex=True)))


def test_the_spread_lies_on_the_image(world, tmp_path):
    """Of a volume that is turned to be looked at, sample by sample."""
    volume(
        tmp_path / "data/a.nii.gz",
        smooth(12, 16, 1).astype(np.float32),
        np.diag([-0.8, -0.9, 3, 1]),
    )
    assert run(world, tmp_path / "data", tmp_path / "out", "--num-samples", "3", solver="daps") == 0
    draws = [
        nibabel.load(path).get_fdata()[:, :, 0]
        for path in sorted((tmp_path / "out/samples").iterdir())
    ]
    std = np.load(tmp_path / "out/std/a.npy")[0]
    assert std.shape == (12, 16)
    np.testing.assert_allclose(np.std(draws, 0, ddof=1), std, rtol=1e-4)


def test_what_a_format_cannot_hold_fails_alone(world, tmp_path, capsys, monkeypatch):
    data, write = tiny.scans(tmp_path / "data", 2), formats.write

    def picky(image, path, **more):
        if "scan0" in str(path):
            raise {"a": Refusal("cannot hold this"), "b": KeyError("x")}[path.parts[-3]]
        write(image, path, **more)

    monkeypatch.setattr(formats, "write", picky)
    assert run(world, data, tmp_path / "a") == run(world, data, tmp_path / "b") == 1
    assert tiny.records(tmp_path / "a")["scan0"]["status"] == "failed: cannot hold this"
    assert not (tmp_path / "a" / "logs").exists()
    assert tiny.records(tmp_path / "b")["scan0"]["status"].startswith(
        "failed: KeyError: 'x' (a bug in the program"
    )
    assert "in picky" in (tmp_path / "b" / "logs" / "scan0.txt").read_text()
    assert list(tiny.restored(tmp_path / "b")) == ["scan1.png"]
    monkeypatch.undo()
    assert run(world, data, tmp_path / "b") == 0 and not any((tmp_path / "b" / "logs").iterdir())


@pytest.mark.parametrize("alone", [True, False])
def test_a_bug_fails_its_image_and_leaves_its_traceback(
    world, tmp_path, capsys, monkeypatch, alone
):
    """alone: the bug is one image's; else it comes up in batches only, whose images are restored one by one."""
    data, solve = tiny.scans(tmp_path / "data", 3), Baseline.__call__

    def buggy(solver, problem, prior, noise):
        if ("scan1" in problem.ids) if alone else len(problem.ids) > 1:
            raise AssertionError("cannot be")
        return solve(solver, problem, prior, noise)

    monkeypatch.setattr(Baseline, "__call__", buggy)
    assert run(world, data, tmp_path / "out", "--batch-size", "3") == int(alone)
    bad = [
        name for name, record in tiny.records(tmp_path / "out").items() if record["status"] != "ok"
    ]
    assert bad == ["scan1"] * alone
    (log,) = (tmp_path / "out" / "logs").iterdir()
    assert log.name == ("scan1.txt" if alone else "scan0.txt") and "in buggy" in log.read_text()
    lines = capsys.readouterr().err.splitlines()
    assert sum("AssertionError: cannot be" in line for line in lines) == 1


def test_values_outside_the_window_are_told(world, tmp_path):
    dicom(tmp_path / "data/a.dcm", "a")
    ds = pydicom.dcmread(tmp_path / "data/a.dcm")
    ds.WindowCenter, ds.WindowWidth = 250, 500
    ds.save_as(tmp_path / "data/a.dcm")
    assert run(world, tmp_path / "data", tmp_path / "out", "--window", "header") == 0
    outside = (formats.read(tmp_path / "data/a.dcm").pixels > 500).float().mean()
    assert (
        f"{outside:.0%} of the values lie outside the window 0 to 500"
        in tiny.records(tmp_path / "out")["a"]["notes"][0]
    )


def test_a_volume_of_results_that_are_gone_is_left_alone(tmp_path):
    results = Results(tmp_path, {}, {})
    meta = Meta("nifti", "int16", count=2, series="0" * 32, shape=(4, 4, 2))
    with results.opened():
        scan = Scan(
            "a-0000", torch.zeros(1, 4, 4), Image(torch.zeros(1, 4, 4), meta), DEPTH_8, volume="a"
        )
        results.commit(
            Outcome(scan, {"image_id": "a-0000", "status": "ok", "seconds": 1.0}, scan.pixels)
        )
        assert reassemble(results, {"a": ["a-0000"]}, lambda name: None) == []
