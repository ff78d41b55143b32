"""Runs that are watched, stopped and estimated from Python, and results as pages and notebooks show them."""

import math
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
import tiny
import torch

import palimpsest as P
from data import formats
from data.opened import Opened
from solvers.run import flags

SCAN = Path(__file__).parents[1] / "models/demo-data/lung2-ax-035.dcm"


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return tiny.world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def words(world: Path) -> dict:
    return tiny.asked(world)


def test_a_watcher_sees_every_call_and_what_comes_of_it(world: Path, words: dict):
    seen, images = [], []

    def watch(moment) -> None:
        seen.append((moment.image_id, moment.done, moment.images, moment.step, moment.steps))
        images.append((moment.look(), moment.measure(), moment.share, moment.remaining))

    results = P.restore(world / "scans", watch=watch, batch_size=1, **words)
    assert seen == [(f"scan{i}", i, 3, step, 4) for i in range(3) for step in range(4)]
    assert [image is None for image, *_ in images] == [True, False, False, False] * 3
    assert (
        images[1][0].shape == (1, 1, 16, 16)
        and images[1][1] > 0
        and images[1][2] == pytest.approx(1 / 12)
    )
    assert images[0][3] is None and images[1][3] >= 0
    plain = P.restore(world / "scans", batch_size=1, **words)
    assert all(np.array_equal(a.image, b.image) for a, b in zip(results, plain))


@pytest.mark.parametrize("solver", ["codps", "daps", "resample"])
def test_a_run_stops_before_the_next_call(world: Path, words: dict, solver: str):
    prior, calls = P.load(f"{world}/pixel"), []
    denoise = prior.denoise
    prior.denoise = lambda *x, **more: calls.append(0) or denoise(*x, **more)
    with pytest.raises(P.Stopped):
        own = {**words, "prior": prior, "solver": f"{world}/{solver}.yaml"}
        P.restore(world / "scans/scan0.png", watch=lambda moment: len(calls) < 2, **own)
    assert len(calls) == 2


def test_it_is_followed_to_its_end_or_left(world: Path, words: dict):
    *glimpses, result = P.follow(world / "scans/scan0.png", every=0.01, **words)
    assert isinstance(result, P.Result) and glimpses
    assert "progress" in glimpses[-1].html()
    with pytest.raises(P.Refusal, match="no such"):
        list(P.follow(world / "scans/none.png", every=0.01, **words))


def test_the_estimate_grows_with_steps_and_images(world: Path, words: dict):
    one = P.estimate(world / "scans/scan0.png", steps=10, seed=2, watch=print, **words)
    assert 0 < one and one < P.estimate(world / "scans", steps=1000, **words)
    with pytest.raises(P.Refusal, match="not a problem"):
        P.estimate(P.measure(P.operators.SuperResolution(4), np.zeros((16, 16)), 0.1, range="unit"))


def test_settings_are_those_of_the_file_and_the_class():
    known = {one.key: one for one in P.settings("tasks", "ct_parallel_20")}
    views, beam, arc = (known[f"operator.params.{name}"] for name in ("views", "beam", "arc"))
    assert (views.kind, views.value, views.said) == ("whole", 20, True)
    assert (beam.kind, beam.choices, beam.said) == ("choice", ("parallel", "fan"), False)
    assert arc.about == "degrees covered by the views"
    assert known["likelihood.params.sigma_y"].value == 0.1
    assert [one.kind for one in P.settings("tasks", "inpainting_mask")] == ["file", "number"]
    assert all(
        P.settings(kind, name)
        for kind, names in (("tasks", P.tasks()), ("solvers", P.solvers()))
        for name in names
    )


def test_the_command_line_is_understood():
    line = P.command(
        "a scan.dcm",
        "demo-pixel",
        task="mri_x4",
        draws=4,
        measurements=True,
        overrides=["operator.params.coils=2"],
    )
    assert line.startswith("python sample.py --data-root 'a scan.dcm' --model demo-pixel")
    options, changes, rest = flags.parse(line.replace("'a scan.dcm'", "x").split()[2:], "")
    assert (options.num_samples, options.task, options.measurements, rest) == (
        4,
        ["mri_x4"],
        True,
        [],
    )
    assert changes == ["operator.params.coils=2"]


def test_what_no_command_line_can_say_is_refused():
    for what, more, line in [
        (np.zeros((16, 16)), {}, "what: ndarray has no command line"),
        ("a", {"prior": object()}, "prior: object has no command line"),
        ("a", {"task": P.operators.Denoising()}, "task: Denoising has no command line"),
        ("a", {"range": (0, 1)}, "range= means nothing with a command line"),
        ("a", {"num_samples": 2}, "here it is draws"),
    ]:
        with pytest.raises(P.Refusal, match=line):
            P.command(what, **more)
    assert P.command("a", steps=2, overrides="b=c").endswith("--data-root a --steps 2 b=c")


def test_what_a_result_says_beside_its_image(world: Path, words: dict):
    own = {**words, "task": f"{world}/mask.yaml"}
    result = P.restore(world / "scans/scan0.png", draws=4, **own)
    low, high = result.interval()
    inside = (result.truth >= low) & (result.truth <= high)
    assert inside.mean() == pytest.approx(result.record["coverage"], abs=0.01)
    hidden = np.isnan(result.before)
    assert 0.69 < hidden.mean() < 0.72  # the task hides 70 to 71 %
    assert "dB" in result.words and "noise" in result.words
    shown = result.html()
    assert (
        shown.count("<img") == 2 + 1 + 4 and "compare" in shown and "polygon" in result.profile(3)
    )
    assert P.restore(world / "scans/scan0.png", **words).interval() is None


def test_a_series_comes_and_goes_as_zip(world: Path, words: dict, tmp_path: Path):
    scan = pydicom.dcmread(SCAN)
    scan.PixelData, scan.Rows, scan.Columns = (
        scan.pixel_array[:32:2, :32:2].copy().tobytes(),
        16,
        16,
    )
    with zipfile.ZipFile(tmp_path / "scan.zip", "w") as archive:
        for i in range(3):
            scan.SOPInstanceUID = scan.file_meta.MediaStorageSOPInstanceUID = f"1.2.{i + 1}"
            scan.ImagePositionPatient, scan.InstanceNumber = [0, 0, 2.5 * i], i + 1
            scan.save_as(tmp_path / "one.dcm")
            archive.write(tmp_path / "one.dcm", f"../../Mustermann/{i}.dcm")
        archive.writestr("readme.txt", "no scan")
    opened = Opened.of(tmp_path / "scan.zip")
    assert [Path(row.path).name for row in opened.rows] == ["0001.dcm", "0002.dcm", "0003.dcm"]
    assert opened.look(1)[0].shape == (1, 16, 16)
    (result,) = P.restore(opened.path, **words)
    assert result.suffix == ".zip"
    result.save(tmp_path / "restored.zip")
    with zipfile.ZipFile(tmp_path / "restored.zip") as archive:
        assert len(archive.namelist()) == 3
        assert pydicom.dcmread(archive.open(archive.namelist()[0])).pixel_array.shape == (16, 16)


def test_a_zip_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("PALIMPSEST_MAX_IMAGE_BYTES", "1000")
    with zipfile.ZipFile(tmp_path / "scan.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.dcm", bytes(128) + b"DICM" + bytes(100_000))
    with pytest.raises(P.Refusal, match="allowed"):
        Opened.of(tmp_path / "scan.zip")


def test_one_slice_of_a_volume_is_a_file_of_one(world: Path, words: dict, tmp_path: Path):
    volume = torch.linspace(0, 1, 16 * 16 * 3).reshape(16, 16, 3).numpy()
    import nibabel

    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "volume.nii.gz")
    result = P.restore(tmp_path / "volume.nii.gz", slice_range="1:2", **words)
    result = result[0] if isinstance(result, list) else result
    result.save(tmp_path / "one.nii.gz")
    assert formats.count(tmp_path / "one.nii.gz") == 1 and not math.isnan(result.image.sum())
