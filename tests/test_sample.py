"""The door: tiny random priors, real files, whole runs."""

import json
from pathlib import Path

import nibabel
import numpy as np
import PIL.Image
import pydicom
import pytest
import tiny
import torch
import yaml
from tiny import records, restored

import sample
from data import formats, sources
from data.files import Refusal
from data.ranges import DEPTH_16, Intensity
from ldm import sampling
from solvers.operators import SuperResolution

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Nothing in it is changed by a test."""
    return tiny.world(tmp_path_factory.mktemp("world"))


def run(world: Path, out: Path, *more: str, **choices: str) -> int:
    return sample.main(tiny.words(world, out, *more, **choices))


def test_a_folder_of_scans_is_restored(world: Path, tmp_path: Path, capsys):
    assert run(world, tmp_path) == 0
    found = records(tmp_path)
    assert list(found) == ["scan0", "scan1", "scan2"]
    for record in found.values():
        assert record["status"] == "ok" and record["nfe"] == 4 and record["seed"] == 0
        assert {
            "psnr",
            "ssim",
            "nmse",
            "residual",
            "baseline_psnr",
            "seconds",
            "vjps",
            "files",
        } <= record.keys()
        image = formats.read(tmp_path / record["files"]["recon"])
        assert image.meta.dtype == "uint16" and image.pixels.shape == (1, 16, 16)
        assert all((tmp_path / file).is_file() for file in record["files"].values())
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["images"] == 3 and summary["psnr"]["n"] == 3 and summary["failed"] == []
    assert (tmp_path / "report.html").read_text().count("data:image/png") == 3
    assert "PSNR" in capsys.readouterr().out
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert (
        config["solver"]["params"]["steps"] == 4
        and "torch" in config["versions"]
        and config["prior"]["sha256"]
    )


def test_several_tasks_and_solvers_make_a_grid_with_one_table(world: Path, tmp_path: Path, capsys):
    tasks, solvers = (
        [f"{world}/{n}.yaml" for n in ("sr", "mask")],
        [f"{world}/{n}.yaml" for n in ("codps", "daps")],
    )
    more = ["--task", *tasks, "--solver", *solvers, "--limit", "2"]
    assert run(world, tmp_path, *more) == 0
    table = json.loads((tmp_path / "summary.json").read_text())
    assert set(table) == {"sr-codps", "sr-daps", "mask-codps", "mask-daps"}
    assert all(len(records(tmp_path / name)) == 2 for name in table)
    printed = capsys.readouterr().out
    assert all(name in printed for name in table)
    page = (tmp_path / "report.html").read_text()
    assert (
        page.count("alt='restored'") == 8 and page.count("alt='truth'") == 2
    )  # a row an image, a column a task and solver


ESTIMATES = [
    ("codps", "pixel", 3, True),
    ("codps", "pixel", 1, False),
    ("daps", "pixel", 3, False),
    ("daps", "latent", 3, True),
]


@pytest.mark.parametrize("solver, model, draws, expected", ESTIMATES)
def test_it_is_said_whose_spread_is_no_uncertainty(
    world: Path, tmp_path: Path, capsys, solver, model, draws, expected
):
    """DAPS's neither, with a latent prior that does not know what its autoencoder errs by."""
    assert (
        run(
            world, tmp_path, "--num-samples", str(draws), "--limit", "1", solver=solver, model=model
        )
        == 0
    )
    said = f"draws of {'CoDPSPlus' if solver == 'codps' else 'DAPS'} are estimates"
    places = [
        capsys.readouterr().out,
        (tmp_path / "config.yaml").read_text(),
        (tmp_path / "report.html").read_text(),
    ]
    assert [said.lower() in " ".join(place.lower().split()) for place in places] == [expected] * 3


def test_posterior_draws_give_mean_spread_and_interval(world: Path, tmp_path: Path):
    assert run(world, tmp_path, "--num-samples", "3", "--limit", "1") == 0
    record = records(tmp_path)["scan0"]
    draws = torch.stack([formats.read(p).pixels for p in sorted((tmp_path / "samples").iterdir())])
    assert len(draws) == 3 and {"residual_mean", "coverage", "psnr_draw"} <= record.keys()
    mean = formats.read(tmp_path / record["files"]["recon"]).pixels
    std = torch.from_numpy(np.load(tmp_path / record["files"]["std"]))
    assert PIL.Image.open(tmp_path / "std/scan0.png").height >= std.shape[-2]  # the same to look at
    inside = (draws > 0).all(0) & (draws < 65535).all(0)  # files clip what overshoots
    assert inside.float().mean() > 0.3
    # Stored values are rounded to half a unit; the mean of three of them too.
    assert float((mean - draws.mean(0))[inside].abs().max()) <= 1.01
    assert float((std - draws.std(0))[inside].abs().max()) <= 1.5


def test_k_draws_are_the_same_however_many_share_a_network_call(world: Path, tmp_path: Path):
    """And the first of them is the draw of a single run."""
    precise = ["--precision", "64-true", "--limit", "2"]
    assert run(world, tmp_path / "single", *precise) == 0
    assert run(world, tmp_path / "runs", *precise, "--num-runs", "3") == 0
    for rows in ("1", "2", "6"):
        assert (
            run(world, tmp_path / rows, *precise, "--num-samples", "3", "--batch-size", rows) == 0
        )
    for name, record in records(tmp_path / "single").items():
        draws = {
            rows: [
                formats.read(tmp_path / rows / f"samples/{name}-00{k}.png").pixels for k in range(3)
            ]
            for rows in ("1", "2", "6")
        }
        for k in range(3):  # float64: as in the test on batches
            assert all(
                float((draws[rows][k] - draws["1"][k]).abs().max()) <= 1 for rows in ("2", "6")
            )
        assert (
            float(
                (draws["1"][0] - formats.read(tmp_path / f"single/recon/{name}.png").pixels)
                .abs()
                .max()
            )
            <= 1
        )
        assert (
            float((draws["1"][0] - draws["1"][1]).abs().max())
            > 100
            < float((draws["1"][1] - draws["1"][2]).abs().max())
        )
        several, residuals = (
            records(tmp_path / "6")[name],
            records(tmp_path / "runs")[name]["residuals"],
        )
        assert several["residual"] == pytest.approx(record["residual"], rel=1e-7) == residuals[0]
        # A norm is convex; equal only if all draws leave the same residual.
        assert (
            several["residual_mean"] < 0.999 * sum(residuals) / 3
            and several["residual_mean"] != several["residual"]
        )


def test_num_runs_keeps_the_run_of_smallest_residual(world: Path, tmp_path: Path):
    assert run(world, tmp_path / "runs", "--num-runs", "3", "--limit", "1") == 0
    assert run(world, tmp_path / "all", "--num-samples", "3", "--limit", "1") == 0
    record = records(tmp_path / "runs")["scan0"]
    kept = record["kept_run"]
    assert record["residual"] == min(record["residuals"]) == record["residuals"][kept]
    draw = tmp_path / "all" / "samples" / f"scan0-{kept:03d}.png"
    assert restored(tmp_path / "runs")["scan0.png"] == draw.read_bytes()


def test_an_oracle_keeps_the_run_nearest_to_the_truth_and_says_so(world: Path, tmp_path: Path):
    assert run(world, tmp_path / "all", "--num-runs", "4") == 0
    assert run(world, tmp_path / "oracle", "--num-runs", "4", "--oracle") == 0
    honest, oracle = records(tmp_path / "all"), records(tmp_path / "oracle")
    assert {r["kept_by"] for r in honest.values()} == {"residual"} and {
        r["kept_by"] for r in oracle.values()
    } == {"oracle"}
    gains = [oracle[name]["psnr"] - honest[name]["psnr"] for name in honest]
    assert (
        min(gains) >= 0 and max(gains) > 0
    )  # of four draws of three scans, the smallest residual is not always nearest
    assert all(r["residual"] == r["residuals"][r["kept_run"]] for r in oracle.values())


@pytest.mark.parametrize(
    "model, solver", [("pixel", "codps"), ("latent", "resample"), ("patch", "codps")]
)
def test_batch_order_and_start_do_not_change_an_image(
    world: Path, tmp_path: Path, model: str, solver: str
):
    choices = {"model": model, "solver": solver, "task": "mask"}
    precise = ["--precision", "64-true"]
    assert run(world, tmp_path / "one", *precise, **choices) == 0
    assert run(world, tmp_path / "batch", *precise, "--batch-size", "3", **choices) == 0
    assert run(world, tmp_path / "last", *precise, "--start", "2", **choices) == 0
    # float64: images agree to 1e-10 of their range, so 16-bit files differ in no more than a rounding on the edge.
    for name, one in restored(tmp_path / "one").items():
        a = formats.read(tmp_path / "one/recon" / name).pixels
        assert float((formats.read(tmp_path / "batch/recon" / name).pixels - a).abs().max()) <= 1
        if name == "scan2.png":
            assert restored(tmp_path / "last")[name] == one
    for name, record in records(tmp_path / "batch").items():
        assert record["residual"] == pytest.approx(
            records(tmp_path / "one")[name]["residual"], rel=1e-7
        )


def test_the_global_generator_is_untouched(world: Path, tmp_path: Path):
    before = torch.get_rng_state()
    assert run(world, tmp_path, "--limit", "1", solver="daps") == 0
    assert torch.equal(before, torch.get_rng_state())


def test_an_unfinished_run_goes_on_and_a_finished_one_does_nothing(world: Path, tmp_path: Path):
    assert run(world, tmp_path, "--batch-size", "2") == 0
    whole, first = restored(tmp_path), (tmp_path / "records.jsonl").read_text()
    lines = first.splitlines(keepends=True)
    (tmp_path / "records.jsonl").write_text(
        lines[0] + lines[1][:40]
    )  # killed while writing the second line
    for name in ("scan1.png", "scan2.png"):
        (tmp_path / "recon" / name).unlink()
    kept = (tmp_path / "recon" / "scan0.png").stat().st_mtime_ns
    assert run(world, tmp_path, "--batch-size", "2") == 0
    assert restored(tmp_path) == whole and list(records(tmp_path)) == ["scan0", "scan1", "scan2"]
    assert (tmp_path / "recon" / "scan0.png").stat().st_mtime_ns == kept
    before = (tmp_path / "records.jsonl").read_bytes()
    assert run(world, tmp_path, "--batch-size", "2") == 0
    assert (tmp_path / "records.jsonl").read_bytes() == before


def test_another_configuration_is_refused_unless_overwritten(world: Path, tmp_path: Path, capsys):
    assert run(world, tmp_path, "--limit", "1") == 0
    assert run(world, tmp_path, "--limit", "1", "--seed", "1") == 2
    assert "--overwrite" in tiny.refusal(capsys)
    assert run(world, tmp_path, "--limit", "1", "--seed", "1", "--overwrite") == 0
    assert records(tmp_path)["scan0"]["seed"] == 1


def test_what_is_refused_of_one_image_stops_that_image_alone(
    world: Path, tmp_path: Path, monkeypatch, capsys
):
    """Though the problem of the whole batch is refused, as where y holds no noise that sigma_y could be estimated from."""

    def refused(solver, problem, prior):
        if "scan1" in problem.ids:
            raise Refusal("scan1: sigma_y cannot be estimated")

    monkeypatch.setattr("solvers.run.module.check", refused)
    assert run(world, tmp_path / "out", "--batch-size", "4") == 1
    found = {name: record["status"] for name, record in records(tmp_path / "out").items()}
    assert found == {"scan0": "ok", "scan1": "failed: sigma_y cannot be estimated", "scan2": "ok"}
    assert "scan1: sigma_y cannot be estimated" in capsys.readouterr().err


@pytest.mark.parametrize("draws", [1, 2])
def test_nan_in_one_image_of_a_batch_stops_that_image_alone(
    world: Path, tmp_path: Path, monkeypatch, capsys, draws: int
):
    original = sampling.tweedie

    def poisoned(prior, x_t, a, offset):
        x0 = original(prior, x_t, a, offset)
        return torch.stack(
            [row * torch.nan if name == "scan1" else row for name, row in zip(offset.ids, x0)]
        )

    more = ["--batch-size", str(3 * draws), "--num-samples", str(draws)]
    assert run(world, tmp_path / "sound", *more) == 0
    monkeypatch.setattr(sampling, "tweedie", poisoned)
    assert run(world, tmp_path / "bad", *more) == 1
    line = tiny.refusal(capsys)
    assert "scan1: non-finite values at step 0" in line and "sigma" in line
    assert records(tmp_path / "bad")["scan1"]["status"].startswith("failed")
    sound = restored(tmp_path / "sound")
    assert restored(tmp_path / "bad") == {name: sound[name] for name in ("scan0.png", "scan2.png")}
    monkeypatch.undo()
    assert run(world, tmp_path / "bad", *more) == 0, "a restart tries failed images again"
    assert restored(tmp_path / "bad") == sound


def test_a_file_that_cannot_be_read_fails_alone(world: Path, tmp_path: Path, capsys):
    tiny.scans(tmp_path / "scans")
    bad = {
        **{
            "scan1.png": b"\x89PNG\r\n\x1a\nnot a picture",
            "report.dcm": bytes(128) + b"DICM" + bytes(40),
        },
        **{"volume.nii.gz": b"no volume", "pages.tif": b"II*\0", "array.npy": b""},
    }
    for name, content in bad.items():
        (tmp_path / "scans" / name).write_bytes(content)
    np.save(tmp_path / "scans" / "nan.npy", np.full((16, 16), np.nan))
    assert (
        run(world, tmp_path / "out", "--data-root", str(tmp_path / "scans"), "--batch-size", "4")
        == 1
    )
    lines = [
        line
        for line in capsys.readouterr().err.splitlines()
        if line.startswith("sample.py: failed")
    ]
    assert len(lines) == 6 and all(
        sum(f"/{name}: " in line for line in lines) == 1 for name in (*bad, "nan.npy")
    )
    assert sorted(restored(tmp_path / "out")) == ["scan0.png", "scan2.png"]


def test_images_of_unequal_shape_are_computed_apart(world: Path, tmp_path: Path):
    tiny.scans(tmp_path / "scans", 3)
    tiny.scans(tmp_path / "scans" / "small", 2, (13, 15))
    more = ["--data-root", str(tmp_path / "scans")]
    assert (
        run(world, tmp_path / "batch", *more, "--batch-size", "5", task="denoising", solver="daps")
        == 0
    )
    assert run(world, tmp_path / "one", *more, task="denoising", solver="daps") == 0
    assert sorted(restored(tmp_path / "one")) == sorted(restored(tmp_path / "batch"))
    found = records(tmp_path / "batch")
    assert (
        "13×15 image inside the prior's 16×16" in found["small__scan0"]["notes"][0]
        and found["scan0"]["notes"] == []
    )
    assert formats.read(tmp_path / "batch/recon/small__scan0.png").pixels.shape == (1, 13, 15)


def test_gray_images_under_a_prior_of_three_channels(world: Path, tmp_path: Path):
    scans, out = tiny.scans(tmp_path / "scans", 1), tmp_path / "out"
    (scans / "broken.png").touch()  # and read first
    assert (
        run(world, out, "--data-root", str(scans), model="rgb", solver="daps", task="denoising")
        == 1
    )
    assert (
        "3 channels" in records(out)["scan0"]["notes"][0]
        and "failed" in records(out)["broken"]["status"]
    )
    assert formats.read(out / "recon/scan0.png").pixels.shape == (1, 16, 16)


@pytest.mark.parametrize("measured", [[], ["--measurements"]])
def test_colour_images_under_a_prior_of_one_channel(world: Path, tmp_path: Path, measured):
    """Their luminance is restored, be they truths or measurements, and the record says so."""
    tiny.scans(tmp_path / "scans", 1)
    colour = formats.Image(
        (formats.read(tmp_path / "scans/scan0.png").pixels / 257).round().expand(3, -1, -1),
        formats.Meta("png"),
    )
    formats.write(colour, tmp_path / "scans/colour.png")
    words = [*measured, "--data-root", str(tmp_path / "scans"), "--solver", "baseline"]
    assert run(world, tmp_path / "out", *words, task="denoising") == 0
    assert {name: len(r["notes"]) for name, r in records(tmp_path / "out").items()} == {
        "colour": 1,
        "scan0": 0,
    }
    assert "luminance" in records(tmp_path / "out")["colour"]["notes"][0]


def test_large_images_are_tiled(world: Path, tmp_path: Path):
    tiny.scans(tmp_path / "large", 1, (40, 36))
    more = ["--data-root", str(tmp_path / "large")]
    assert run(world, tmp_path / "out", *more, model="latent", solver="resample") == 0
    assert "overlapping tiles" in records(tmp_path / "out")["scan0"]["notes"][0]


@pytest.mark.parametrize(
    "task, shape, contract",
    [("sr", (1, 4, 4), Intensity(-1, 1)), ("ct", (1, 6, 24), Intensity(0, 1))],
)
def test_measurements_of_our_own_runs_restore_to_the_same_images(
    world: Path, tmp_path: Path, task: str, shape, contract
):
    """What a simulated run measured, given back as the user's own. Results lie in [-1, 1], or where physics sees [0, 1] there."""
    tiny.task(tmp_path / "ct.yaml", "CT", views=6, bins=24)
    chosen = ["--precision", "64-true"] + (
        ["--task", str(tmp_path / "ct.yaml")] if task == "ct" else []
    )
    assert run(world, tmp_path / "simulated", *chosen) == 0
    assert np.load(tmp_path / "simulated/measurement/scan0.npy").shape == shape
    more = ["--measurements", *chosen, "--data-root", f"{tmp_path}/simulated/measurement"]
    assert run(world, tmp_path / "measured", *more) == 0
    for i in range(3):
        a = formats.read(tmp_path / f"simulated/recon/scan{i}.png").pixels
        b = DEPTH_16.to_stored(
            contract.to_model(formats.read(tmp_path / f"measured/recon/scan{i}.npy").pixels)
        )
        inside = (a > 0) & (a < 65535)
        # 16-bit rounding of a (0.5) and float32 of y (1e-7 of the range, amplified by a well-conditioned solve)
        assert b.shape == (1, 16, 16) and inside.any() and float((a - b)[inside].abs().max()) <= 2
    assert "psnr" not in records(tmp_path / "measured")["scan0"]


def test_low_resolution_dicom_in_high_resolution_dicom_out(world: Path, tmp_path: Path):
    """Values in the file's units, a finer spacing, and the same field of view."""
    scan = formats.read(ROOT / "models/demo-data/lung2-ax-035.dcm")
    low = torch.nn.functional.adaptive_avg_pool2d(scan.pixels, 4).round()
    (tmp_path / "low").mkdir()
    formats.write(
        formats.Image(low, formats.resized(scan.meta, 4 / scan.pixels.shape[-1])),
        tmp_path / "low/a.dcm",
        image_id="a",
    )
    before = pydicom.dcmread(tmp_path / "low/a.dcm")
    before.PixelSpacing, before.ImageOrientationPatient = [90.0, 70.0], [0.8, 0.6, 0, -0.6, 0.8, 0]
    before.save_as(tmp_path / "low/a.dcm")
    more = ["--measurements", "--data-root", str(tmp_path / "low"), "--solver", "baseline"]
    assert run(world, tmp_path / "out", *more) == 0
    after = pydicom.dcmread(tmp_path / "out/recon/a.dcm")
    assert (before.Rows, after.Rows) == (4, 16) and after.SOPInstanceUID != before.SOPInstanceUID
    assert [float(v) for v in after.PixelSpacing] == pytest.approx([22.5, 17.5])

    def edges(ds: pydicom.Dataset) -> np.ndarray:
        """The outer corner of the first pixel and that of the last, mm."""
        across, down = np.reshape(ds.ImageOrientationPatient, (2, 3)).astype(float)
        rows, columns = (float(v) for v in ds.PixelSpacing)
        first = np.array(ds.ImagePositionPatient, float) - across * columns / 2 - down * rows / 2
        return np.stack([first, first + across * columns * ds.Columns + down * rows * ds.Rows])

    assert np.abs(edges(after) - edges(before)).max() < 1e-9
    hounsfield = after.pixel_array * float(after.RescaleSlope) + float(after.RescaleIntercept)
    expected = SuperResolution(4).baseline(
        low[None], (1, 16, 16)
    )  # linear, so it may be asked in HU
    assert np.abs(hounsfield - expected[0, 0].clamp(-1024, 3071).numpy()).max() <= 0.51
    assert (
        "psnr" not in records(tmp_path / "out")["a"]
        and "residual" in records(tmp_path / "out")["a"]
    )


def test_low_resolution_volume_in_high_resolution_volume_out(world: Path, tmp_path: Path):
    """A volume that is stored lying down: restored upright, written as it was, in the same place; its window clamps nothing."""
    (tmp_path / "low").mkdir()
    affine = np.array([[0, 0, 5.0, 7], [-2.4, 0, 0, 30], [0, 2.8, 0, -40], [0, 0, 0, 1]])
    values = (np.arange(4)[:, None, None] * 100 + np.arange(4)[:, None] * 30 + np.arange(2)).astype(
        np.int16
    )
    nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / "low/head.nii.gz")
    (tmp_path / "low.csv").write_text(f"path,window\n{tmp_path}/low/head.nii.gz,100:300\n")
    words = tiny.words(
        world, tmp_path / "out", "--manifest", f"{tmp_path}/low.csv", "--measurements"
    )
    del words[words.index("--data-root") : words.index("--data-root") + 2]
    assert sample.main([*words, "--solver", "baseline"]) == 0
    file = tmp_path / "out/recon/low__head.nii.gz"
    after = nibabel.load(file)
    assert after.shape == (16, 16, 2) and after.get_data_dtype() == np.int16
    corners = np.array([[-0.5, -0.5, 0, 1], [3.5, 3.5, 1, 1]]).T
    finer = np.array([[-0.5, -0.5, 0, 1], [15.5, 15.5, 1, 1]]).T
    assert np.abs(after.affine @ finer - affine @ corners).max() < 1e-4  # NIfTI holds float32
    expected = SuperResolution(4).baseline(
        torch.from_numpy(values).float().permute(2, 0, 1)[:, None], (1, 16, 16)
    )
    assert np.abs(np.asarray(after.dataobj) - expected[:, 0].permute(1, 2, 0).numpy()).max() <= 0.51


@pytest.mark.parametrize(
    "model, solver",
    [("pixel", "daps"), ("patch", "padis"), ("latent", "resample"), ("latent", "psld")],
)
def test_mixed_precision_goes_through_every_derivative(
    world: Path, tmp_path: Path, model: str, solver: str
):
    """A decoder under autocast cannot be pushed forward by torch.func.jvp, which ReSample and DAPS do."""
    mixed = ["--precision", "bf16-mixed", "--limit", "1", "--steps", "4", "--solver", solver]
    assert run(world, tmp_path, *mixed, model=model) == 0
    assert records(tmp_path)["scan0"]["status"] == "ok"


@pytest.mark.parametrize(
    "model, solver", [("pixel", "prior"), ("latent", "prior_ddim"), ("patch", "prior_langevin")]
)
def test_draws_from_the_prior_depend_on_their_seed_alone(
    world: Path, tmp_path: Path, model: str, solver: str
):
    base = [
        "--solver",
        solver,
        "--model",
        f"{world}/{model}",
        "--steps",
        "3",
        "--accelerator",
        "cpu",
        "--precision",
        "64-true",
    ]
    assert (
        sample.main(
            [*base, "--seeds", "0-3", "--batch-size", "4", "--save-dir", str(tmp_path / "batch")]
        )
        == 0
    )
    assert sample.main([*base, "--seeds", "2", "--save-dir", str(tmp_path / "one")]) == 0
    files = sorted(p.name for p in (tmp_path / "batch/samples").iterdir())
    assert files == [f"00000{i}.png" for i in range(4)]
    a, b = (
        formats.read(tmp_path / where / "samples/000002.png").pixels for where in ("one", "batch")
    )
    assert float((a - b).abs().max()) <= 1 and a.std() > 1


def test_the_class_that_is_asked_for_is_drawn(world: Path, tmp_path: Path):
    for label in ("0", "4"):
        assert (
            run(world, tmp_path / label, "--limit", "1", f"prior.label={label}", model="classes")
            == 0
        )
    assert restored(tmp_path / "0") != restored(tmp_path / "4")


def test_values_may_be_words_of_the_published_scripts():
    options, overrides = sample.parse(
        ["--accelerator", "gpu", "--split", "name", "--model", "runs/lr=0.1/epoch=3.ckpt"]
    )
    assert (options.accelerator, options.split, options.model) == (
        "gpu",
        "name",
        "runs/lr=0.1/epoch=3.ckpt",
    ) and not overrides
    options, overrides = sample.parse(
        ["--model", "epoch=3.ckpt", "--task", "hdr", "run.x=1"]
    )  # a file that does not exist
    assert options.model == "epoch=3.ckpt" and options.task == ["hdr"] and overrides == ["run.x=1"]


def test_old_flags_work(world: Path, tmp_path: Path):
    old = [
        "--task_config",
        "super_resolution_config.yaml",
        "--diffusion_config",
        f"{world}/pixel",
        "--save_dir",
        str(tmp_path),
    ]
    old += [
        "--solver",
        f"{world}/codps.yaml",
        "--ddim_steps",
        "3",
        "--ddim_eta",
        "0.5",
        "--data_root",
        f"{world}/scans",
    ]
    assert sample.main([*old, "--limit", "1", "--accelerator", "cpu"]) == 0
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert config["solver"]["params"] == {"steps": 3, "eta": 0.5}


@pytest.mark.slow
@pytest.mark.parametrize(
    "model, solver", [("pixel", "codps"), ("pixel", "dps"), ("latent", "resample")]
)
def test_a_compiled_network_gives_the_same_images(
    world: Path, tmp_path: Path, model: str, solver: str
):
    """With gradients through the network (DPS) and without."""
    tiny.solver(tmp_path / "dps.yaml", "dps.DPS", steps=4)
    more = (
        ["--solver", str(tmp_path / "dps.yaml")]
        if solver == "dps"
        else ["--solver", f"{world}/{solver}.yaml"]
    )
    assert run(world, tmp_path / "plain", "--limit", "2", *more, model=model) == 0
    assert run(world, tmp_path / "compiled", "--limit", "2", *more, "--compile", model=model) == 0
    for name in restored(tmp_path / "plain"):
        a, b = (
            formats.read(tmp_path / where / "recon" / name).pixels
            for where in ("plain", "compiled")
        )
        # Fused kernels round otherwise, about 1e-6 of the range a network call and solve; 65535 of it are a range.
        assert float((a - b).abs().max()) <= 4 and a.std() > 1


def test_dry_run_names_the_three_fastest_solvers_that_do_the_job(
    world: Path, tmp_path: Path, capsys, monkeypatch
):
    """Of a nonlinear task on a pixel prior: those that need a linear operator are not among them, however fast."""
    seconds = {
        "pnp": 3.0,
        "tv": 0.1,
        "resample_fast": 2.0,
        "padis": 0.2,
        "daps": 1.0,
        "codps_plus": 0.3,
    }
    monkeypatch.setattr(
        "solvers.run.module.Reconstruction.estimate",
        lambda self, cell, *_, **__: seconds.get(cell.name, 60.0),
    )
    tiny.task(tmp_path / "hdr.yaml", "HighDynamicRange")
    tiny.solver(tmp_path / "dps.yaml", "dps.DPS", steps=4)
    words = [
        "--task",
        str(tmp_path / "hdr.yaml"),
        "--solver",
        str(tmp_path / "dps.yaml"),
        "--dry-run",
    ]
    assert run(world, tmp_path / "out", *words) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert "about 60.0 s an image, 3.0 min for 3" in first
    assert [line.split()[2] for line in rest] == ["daps", "resample_fast", "pnp"]
    assert rest[0].split(maxsplit=3)[3] == "about 1.0 s an image, 0.1 min for 3"


def test_dry_run_writes_nothing(world: Path, tmp_path: Path, capsys):
    assert run(world, tmp_path / "out", "--dry-run") == 0
    assert "s an image" in capsys.readouterr().out and not (tmp_path / "out").exists()


def test_sources_know_splits(tmp_path: Path):
    tiny.scans(tmp_path / "test", 2)
    (tmp_path / "val_images.txt").write_text("test/scan1.png\n")
    (tmp_path / "manifest.csv").write_text("path,split\ntest/scan0.png,train\n")
    assert [r.image_id for r in sources.find(tmp_path, "test")] == ["scan0", "scan1"]
    assert [r.image_id for r in sources.find(tmp_path, "val")] == ["test__scan1"]
    assert [r.image_id for r in sources.find(tmp_path, "train")] == ["test__scan0"]
    with pytest.raises(ValueError, match="split 'dev'"):
        sources.find(tmp_path, "dev")
