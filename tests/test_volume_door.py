"""The doors with volumes that are restored as one: through planes, beside slices one by one, killed, refused."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import tiny
import torch

import palimpsest as P
import sample
from ldm import config as configuration
from solvers import metrics
from solvers.operators.volume import ThroughPlane
from solvers.run import interrupted
from tests.test_volume_results import series, smooth

NETWORK = {
    "target": "ldm.networks.residual_unet.ResidualUNet",
    "params": {"channels": 1, "widths": [8, 16], "blocks": 1},
}
PRIOR = {
    "target": "ldm.denoiser.Prior",
    "params": {
        "denoiser": {"target": "ldm.denoiser.EDM", "params": {"network": NETWORK}},
        "shape": [1, 16, 16],
        "variances": [[0.02, 1e-4], [1.0, 0.1]],
    },
}
AFFINE = np.array([[1.0, 0.2, 0, 3], [0, 1, 0, 4], [0, 0.1, 1, 5], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    place = tiny.world(tmp_path_factory.mktemp("world"))
    tiny.folder(place / "anysize", PRIOR)
    tiny.task(place / "thick.yaml", "volume.ThroughPlane", factor=2.5)
    for name, target in (("pnp", "pnp.PnP"), ("tv", "tv.TV")):
        tiny.solver(place / f"{name}.yaml", target, steps=3)
    (place / "baseline.yaml").write_text(
        configuration.dump({"solver": {"target": "solvers.baseline.Baseline", "params": {}}})
    )
    return place


def run(
    world: Path,
    data: Path,
    out: Path,
    *more: str,
    task: str = "thick",
    solver: str = "pnp",
    model: str = "anysize",
) -> int:
    return sample.main(
        tiny.words(
            world, out, "--data-root", str(data), *more, task=task, solver=solver, model=model
        )
    )


def head(folder: Path, *shape: int, name: str = "head.nii.gz", affine: np.ndarray = AFFINE) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(smooth(*shape), affine), folder / name)
    return folder


def test_thick_slices_of_a_simulation_come_back_thin_in_their_place(world, tmp_path):
    """One record, one file, two draws with their spread, scores in three dimensions."""
    data = head(tmp_path / "in", 17, 19, 20)
    assert run(world, data, tmp_path / "out", "--num-samples", "2", solver="daps") == 0
    (record,) = tiny.records(tmp_path / "out").values()
    assert (
        record["image_id"] == "head"
        and record["status"] == "ok"
        and "restored as a volume" in record["notes"]
    )
    assert {
        "ssim",
        "ssim_rows",
        "ssim_columns",
        "continuity",
        "coverage",
        "psnr_draw",
    } <= record.keys()
    after, spread = (
        nibabel.load(tmp_path / f"out/{kind}/head.nii.gz") for kind in ("recon", "std")
    )
    assert np.allclose(after.affine, AFFINE, atol=1e-6) and after.shape == spread.shape == (
        17,
        19,
        20,
    )
    assert spread.get_data_dtype() == np.float32 and float(spread.get_fdata().max()) > 0
    assert np.load(tmp_path / "out/measurement/head.npy").shape == (1, 8, 19, 17)  # upright
    assert (tmp_path / "out/panels/head.png").is_file() and len(
        list((tmp_path / "out/samples").iterdir())
    ) == 2
    truth, found = (
        torch.from_numpy(np.asarray(x.dataobj, float))[None, None]
        for x in (nibabel.load(data / "head.nii.gz"), after)
    )
    low, high = record["contract"]
    psnr = metrics.psnr(*(2 * (x - low) / (high - low) - 1 for x in (found, truth)))
    assert record["psnr"] == pytest.approx(float(psnr), abs=0.05)  # of whole numbers


@pytest.mark.parametrize("kind", ["nifti", "dicom"])
def test_thick_slices_of_a_scanner_become_thin_ones_between_them(world, tmp_path, kind):
    """Spacing divided by the factor; the outer faces of the stack stay where they were. A tilted gantry stays tilted."""
    if kind == "nifti":
        data = head(tmp_path / "in", 17, 19, 6)
    else:
        series(tmp_path / "in", 6, tilt=0.5)
        data = tmp_path / "in"
    assert run(world, data, tmp_path / "out", "--measurements") == 0
    (made,) = (tmp_path / "out/recon").iterdir()
    places = (np.arange(15) + 0.5) / 2.5 - 0.5
    if kind == "nifti":
        after = nibabel.load(made)
        assert after.shape == (17, 19, 15) and after.get_data_dtype() == np.int16
        for k, place in enumerate(places):
            assert np.allclose(after.affine @ (2, 3, k, 1), AFFINE @ (2, 3, place, 1), atol=1e-5)
        y = np.asarray(nibabel.load(data / "head.nii.gz").dataobj, float)
        thick = ThroughPlane(2.5).forward(
            torch.from_numpy(np.asarray(after.dataobj, float)).permute(2, 0, 1)[None, None]
        )
        noise = 0.05 / 2 * (y.max() - y.min())  # sigma_y in stored units
        assert (
            np.square(thick[0, 0].permute(1, 2, 0).numpy() - y).mean() < (1.2 * noise) ** 2
        )  # y is met
    else:
        found = [pydicom.dcmread(path) for path in sorted(made.iterdir())]
        assert len(found) == len({ds.SOPInstanceUID for ds in found}) == 15
        for ds, place in zip(found, places):
            assert [float(v) for v in ds.ImagePositionPatient] == pytest.approx(
                [-5, -7 + 0.5 * place, 3 * place], abs=1e-6
            )
            assert float(ds.SpacingBetweenSlices) == pytest.approx(3 / 2.5)  # along the normal
            assert ds.SeriesDescription.startswith("thick-pnp, prior")


def test_the_same_from_python(world, tmp_path):
    data = head(tmp_path / "in", 17, 19, 6)
    words = {
        "task": str(world / "thick.yaml"),
        "solver": str(world / "pnp.yaml"),
        "measurements": True,
        "accelerator": "cpu",
    }
    result = P.restore(data / "head.nii.gz", str(world / "anysize"), **words)
    assert result.image.shape == (15, 19, 17) and result.residual > 0
    result.save(tmp_path / "thin.nii.gz")
    assert run(world, data, tmp_path / "out", "--measurements") == 0
    assert (tmp_path / "thin.nii.gz").read_bytes() == (
        tmp_path / "out/recon/head.nii.gz"
    ).read_bytes()


def test_a_task_of_images_is_met_as_a_stack_unless_slices_are_asked_for(world, tmp_path):
    """Odd sizes are continued for the operator and cropped; beside a volume a picture is a picture."""
    data = head(tmp_path / "in", 17, 18, 19)
    tiny.scans(data, 1)
    assert run(world, data, tmp_path / "whole", task="sr") == 0
    assert run(world, data, tmp_path / "slices", "--slicewise", task="sr") == 0
    assert {*tiny.records(tmp_path / "whole")} == {"head", "scan0"} and len(
        tiny.records(tmp_path / "slices")
    ) == 20
    for out in ("whole", "slices"):
        assert nibabel.load(tmp_path / out / "recon/head.nii.gz").shape == (17, 18, 19)
        assert {path.name for path in (tmp_path / out / "recon").iterdir()} == {
            "head.nii.gz",
            "scan0.png",
        }
    (volume,) = json.loads((tmp_path / "slices/summary.json").read_text())["volumes"]
    assert volume["continuity"] > 0 and volume["slices"] == 19


@pytest.mark.parametrize("kind", ["nifti", "dicom"])
def test_a_measured_stack_becomes_finer_in_its_planes_alone(world, tmp_path, kind):
    """As many slices where they were, four times as many rows and columns, as slice by slice."""
    if kind == "nifti":
        data = head(tmp_path / "in", 17, 19, 6)
    else:
        series(data := tmp_path / "in", 6, tilt=0.5)
    for out, more in (("whole", ()), ("slices", ("--slicewise",))):
        words = (data, tmp_path / out, "--measurements", *more)
        assert run(world, *words, task="sr", solver="baseline") == 0
    made, apart = (next((tmp_path / out / "recon").iterdir()) for out in ("whole", "slices"))
    if kind == "nifti":
        after, one_by_one = map(nibabel.load, (made, apart))
        assert after.shape == (68, 76, 6) and np.array_equal(after.affine, one_by_one.affine)
        assert np.array_equal(after.dataobj, one_by_one.dataobj)
        edges = (17 - 0.5, 19 - 0.5, 5), (68 - 0.5, 76 - 0.5, 5)  # outer corner of the last slice
        assert np.allclose(AFFINE @ (*edges[0], 1), after.affine @ (*edges[1], 1), atol=1e-4)
    else:
        for k, path in enumerate(sorted(made.iterdir())):
            ds, one = (pydicom.dcmread(file) for file in (path, apart / path.name))
            assert (ds.Rows, ds.Columns) == (64, 64)
            assert [float(v) for v in ds.PixelSpacing] == pytest.approx([0.2, 0.2])
            assert ds.ImagePositionPatient == one.ImagePositionPatient
            assert float(ds.ImagePositionPatient[2]) == pytest.approx(3 * k)
            assert np.array_equal(ds.pixel_array, one.pixel_array)


def test_what_cannot_see_volumes_restores_their_slices_and_says_so(world, tmp_path, capsys):
    data = head(tmp_path / "in", 16, 16, 3)
    assert run(world, data, tmp_path / "out", task="sr", model="pixel") == 0
    assert (
        "volumes are restored slice by slice: sr-pnp: the prior knows slices of one size"
        in capsys.readouterr().out
    )
    assert len(tiny.records(tmp_path / "out")) == 3


@pytest.mark.parametrize("solver", ["tv", "baseline"])
def test_classical_answers_are_three_dimensional_too(world, tmp_path, solver):
    data = head(tmp_path / "in", 17, 16, 10)
    assert run(world, data, tmp_path / "out", solver=solver) == 0
    (record,) = tiny.records(tmp_path / "out").values()
    assert record["psnr"] > 15 and record["nfe"] == 0


class Killed(BaseException):
    """What no one catches."""


def test_a_killed_volume_goes_on_at_its_last_level(world, tmp_path, monkeypatch):
    """The result is the same to the byte, and the levels before are not computed again."""
    from ldm.volume import VolumePrior

    data, calls = head(tmp_path / "in", 17, 18, 19), []
    whole = VolumePrior.denoise

    def counted(self, x, sigma, noise=None):
        calls.append(float(sigma[0]))
        if len(calls) == stop:
            raise Killed
        return whole(self, x, sigma, noise)

    monkeypatch.setattr(VolumePrior, "denoise", counted)
    monkeypatch.setattr(interrupted.Savings.__init__, "__defaults__", (0.0,))
    words = ["--num-samples", "2", "--coupling", "3"]
    stop = 0
    assert run(world, data, tmp_path / "straight", *words, solver="daps") == 0
    straight, calls[:] = list(calls), []
    stop = 5  # the second level of the second draw, DAPS calling once a level
    with pytest.raises(Killed):
        run(world, data, tmp_path / "killed", *words, solver="daps")
    assert (tmp_path / "killed" / interrupted.STATE).is_dir()
    stop, calls[:] = 0, []
    assert run(world, data, tmp_path / "killed", *words, solver="daps") == 0
    assert calls == straight[4:]
    assert tiny.restored(tmp_path / "killed") == tiny.restored(tmp_path / "straight")
    assert not (tmp_path / "killed" / interrupted.STATE).exists()


def test_bad_volumes_are_one_line_or_slices(world, tmp_path, capsys):
    tiny.scans(tmp_path / "flat", 1)
    assert run(world, tmp_path / "flat", tmp_path / "out") == 2
    assert "thick-pnp measures volumes, and scan0 is a single image" in tiny.refusal(capsys)
    data = head(tmp_path / "in", 16, 17, 5)
    for words, says in (
        (dict(model="latent"), "made of a pixel prior"),
        (dict(solver="codps", model="patch"), "made of a pixel prior"),
    ):
        assert run(world, data, tmp_path / "out", **words) == 2 and says in tiny.refusal(capsys)
    assert run(
        world, data, tmp_path / "out", "--slicewise"
    ) == 2 and "leave --slicewise out" in tiny.refusal(capsys)
    files = series(tmp_path / "gap", 6)
    files[2].unlink()
    for task, other in (("thick", "slice-range takes a part"), ("sr", "slicewise restores them")):
        assert run(world, tmp_path / "gap", tmp_path / "out", task=task) == 2
        apart = "slices 1 and 2 are 6 mm apart, the others 3 mm"
        assert f"{apart}; --{other}" in tiny.refusal(capsys)
    nibabel.save(
        nibabel.Nifti1Image(smooth(16, 16, 3, 2), np.eye(4)),
        head(tmp_path / "4d", 8, 8, 2) / "head.nii.gz",
    )
    for task, ends in (("thick", "one is allowed"), ("sr", "one is allowed, or --slicewise")):
        assert run(world, tmp_path / "4d", tmp_path / "out", task=task) == 2
        said = tiny.refusal(capsys).strip()
        assert "2 repetitions of a volume" in said and said.endswith(ends)


def test_lines_name_what_is_allowed(world, tmp_path, capsys):
    """Borders that keep the size, and solvers whose `volumes` is true."""
    data = head(tmp_path / "in", 16, 17, 5)
    tiny.task(world / "blurred.yaml", "volume.VolumeBlur", border="foo")
    tiny.task(world / "shaken.yaml", "BlindBlur", border="foo")
    for task in ("blurred", "shaken"):
        assert run(world, data, tmp_path / "out", task=task) == 2
        assert "['reflect', 'symmetric', 'circular', 'zero']" in tiny.refusal(capsys)
    tiny.solver(world / "dps.yaml", "dps.DPS", steps=3)
    assert run(world, data, tmp_path / "out", solver="dps") == 2
    said = tiny.refusal(capsys)
    assert "DPS restores images; baseline, codps_plus, daps," in said
    named = said.partition("; ")[2].strip().removesuffix(" restore volumes").split(", ")
    assert {"pnp", "tv", "resample"} < {*named} and not {"dps", "codps", "prior"} & {*named}


def test_a_volume_larger_than_the_memory_is_one_line(world, tmp_path, capsys, monkeypatch):
    """36 arrays of float32, 4 more for each further draw; at just that much free memory it is restored."""
    from solvers.run import whole

    data, needed = head(tmp_path / "in", 16, 17, 5), 16 * 17 * 5 * 4 * 36
    monkeypatch.setattr(whole, "_available", lambda: needed)
    assert run(world, data, tmp_path / "out", "--num-samples", "2", solver="daps") == 2
    assert "larger than the memory" in (said := tiny.refusal(capsys))
    assert said.strip().endswith("; --slice-range for a part of it")
    assert run(world, data, tmp_path / "out", "--measurements", task="sr") == 2  # 16 times as large
    assert "larger than the memory" in (said := tiny.refusal(capsys))
    assert "; --slicewise, or --slice-range" in said
    assert not (tmp_path / "out").exists()
    assert run(world, data, tmp_path / "out") == 0
