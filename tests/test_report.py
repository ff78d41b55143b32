"""Panels, the report, evaluation of folders, and the table of old flags."""

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import nibabel
import numpy as np
import PIL.Image
import pytest
import tiny
import torch

import sample
from data import dataset, formats
from data.manifest import Row
from data.pictures import AXIS, MISSING
from data.ranges import DEPTH_16, to_report
from ldm import catalogue
from solvers.operators.base import Axes
from solvers.run import panels, plots, report
from solvers.run.panels import panel
from solvers.run.record import Outcome, failed
from solvers.run.remarks import beaten
from solvers.run.results import Results
from solvers.run.scans import Scan

ROOT = Path(__file__).parents[1]


def outcome(name: str = "a", draws: bool = True, y: torch.Tensor | None = None) -> Outcome:
    truth = torch.linspace(-1, 1, 24 * 20).reshape(1, 24, 20)
    source = formats.Image(DEPTH_16.to_stored(truth), formats.Meta("png", "uint16"))
    image = (truth * 0.9).clamp(-1, 1)
    record = {
        "image_id": name,
        "psnr": 26.0,
        "residual": 1.01,
        "seconds": 0.5,
        "nfe": 3,
        "vjps": 0,
        "status": "ok",
    }
    record["notes"] = ["<said>"]
    several = torch.stack([image, image + 0.1, image - 0.1]) if draws else None
    y = truth[:, ::4, ::4] if y is None else y
    return Outcome(Scan(name, truth, source, DEPTH_16), record, image, several, truth, y)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    results = Results(tmp_path / "run", {"solver": "x"}, {"versions": {}})
    with results.opened():
        results.commit(outcome("a"))
        results.commit(outcome("b"))
        results.commit(failed(Scan("c"), "non-finite values at step 3, sigma 0.5"))
        results.summarise()
    return tmp_path / "run"


def test_what_came_out_below_the_classical_answer_is_named(tmp_path: Path):
    results = Results(tmp_path / "run", {"solver": "x"}, {"versions": {}})
    with results.opened():
        for name, baseline in (
            ("better", 20.0),
            ("as good", 26.004),
            ("worse", 27.5),
            ("worst", 40.0),
        ):
            made = outcome(name)
            made.record["baseline_psnr"] = baseline
            results.commit(made)
            if name in ("better", "as good"):  # 26.00 dB is not below 26.00 dB
                assert beaten(results.records()) == ""
        results.commit(outcome("nothing to compare with"))
    assert (
        beaten(results.records())
        == "below the classical answer (--solver baseline): worse 26.00 < 27.50 dB and 1 more of 4"
    )


def test_the_panel_holds_truth_measurement_reconstruction_error_and_spread():
    whole, plain = panel(outcome()), panel(outcome(draws=False))
    assert whole.height == plain.height and whole.width > plain.width > 4 * 200
    left = whole.crop((8, 22, 8 + 213, 22 + 256)).convert(
        "L"
    )  # the truth: 24 x 20 enlarged to 256 x 213, black to white
    assert left.getpixel((0, 0)) == 0 and left.getpixel((212, 255)) == 255


@pytest.mark.parametrize("shape", [(1, 9, 40), (4, 24, 20), (1, 100), (300,)], ids=str)
def test_measurements_of_any_shape_are_pictured(shape: tuple[int, ...]):
    assert (
        panel(outcome(y=torch.linspace(0, 50, torch.Size(shape).numel()).reshape(shape))).width
        > 800
    )


def test_a_weak_sinogram_has_its_own_scale():
    """Line integrals up to 0.5 span black to white, instead of the gray of images."""
    seen = replace(
        outcome(y=torch.linspace(0, 0.5, 24 * 20).reshape(1, 24, 20)), truth=None
    )  # the first tile is y's then
    own, images = (
        np.asarray(panel(replace(seen, image_like=like)).convert("L"))[22:278, 8:221]
        for like in (False, True)
    )
    assert own.min() == 0 and own.max() == 255 and images.min() > 100


class Sources(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.found += [
            value for key, value in attrs if key in ("src", "href") and not value.startswith("#")
        ]


def test_the_report_needs_nothing_else(folder: Path):
    text = report.write(folder).read_text()
    parser = Sources()
    parser.feed(text)
    assert len(parser.found) == 2 and all(
        source.startswith("data:image/png;base64,") for source in parser.found
    )
    assert "&lt;said&gt;" in text and "<said>" not in text and "non-finite values at step 3" in text
    assert "26.00" in text and "2 images restored, 1 failed" in text


def script(name: str):
    """main() of a script, run in this process: importing torch anew costs seconds."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"scripts/{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return lambda *words: module.main([str(word) for word in words])


def one_line(capsys) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_the_report_script(folder: Path, tmp_path: Path, capsys):
    main = script("report")
    assert main(folder) == 0 and "26.00" in capsys.readouterr().out
    assert main(tmp_path) == 2 and "holds no summary.json" in one_line(capsys)
    assert main() == 2 and "required: folders" in one_line(capsys)
    (folder / "records.jsonl").write_text("{}\n")
    assert main(folder) == 2 and "was not written by sample.py" in one_line(capsys)


def test_the_quality_table_tells_draws_from_means(tmp_path: Path, capsys):
    """Two cells of a grid, four draws and one, and a noisier one; the numbers are those of the records."""
    main = script("quality_table")
    for name, draws, sigma_y in (
        ("mri_x4-daps", 4, 0.01),
        ("mri_x4-tv", 1, 0.01),
        ("mri_x4-daps", 4, 0.05),
    ):
        config = {
            "prior": {"model": "models/demo"},
            "likelihood": {"params": {"sigma_y": sigma_y}},
            "run": {"draws": draws},
        }
        results = Results(
            tmp_path / str(sigma_y) / name,
            config,
            {"cell": name, "command": f"python sample.py {sigma_y}"},
        )
        with results.opened():
            for i in range(2):
                made = outcome(str(i), draws > 1)
                made.record.update(psnr=26.0 + 2 * i, ssim=0.5, baseline_psnr=20.0, seconds=8.0)
                made.record.update({"psnr_draw": 24.0, "ssim_draw": 0.4} if draws > 1 else {})
                results.commit(made)
    assert main(tmp_path, "--output", tmp_path / "table.md") == 0
    text = (tmp_path / "table.md").read_text()
    several = "| demo | daps | 2 | 4 | 24.00 | 0.400 | 27.00 | 0.500 | 20.00 | +7.00 | 1.010 | – | 2.0 | 3 + 0 |"
    assert (
        text.count(several) == 2
        and "| none | tv | 2 | 1 | 27.00 | 0.500 | – | – | 20.00 | +7.00 |" in text
    )
    assert (
        text.count("    python sample.py 0.01\n") == text.count("    python sample.py 0.05\n") == 1
    )
    assert text.index("## mri_x4, sigma_y 0.01") < text.index("## mri_x4, sigma_y 0.05")
    table, again = tmp_path / "table.md", ("--output", tmp_path / "table.md", "--keep")
    assert main(tmp_path / "0.05", *again, "demo") == 0  # the rows of another day stay
    assert table.read_text().count(several) == 2 and "| none | tv |" not in table.read_text()
    assert "    python sample.py 0.05\n" in table.read_text()
    assert main(tmp_path / "0.05", *again, "other") == 0
    assert table.read_text().count(several) == 1
    page = tmp_path / "page.md"  # it tells which runs it lacks: not those whose rows it keeps
    kept = several.replace("| demo |", "| demo-pixel |")
    page.write_text(f"## mri_x4, sigma_y 0.01\n\n{kept}\n")
    assert main(tmp_path / "0.05", "--output", page, "--keep", "demo-pixel") == 0
    lacking = page.read_text().partition("Not run: ")[2].partition(".\n")[0].split(", ")
    assert "demo-pixel daps mri_x4" not in lacking and "demo-pixel daps ct_parallel_20" in lacking
    assert main(tmp_path / "none") == 2 and "holds no records" in one_line(capsys)


def test_the_runs_of_the_quality_table_are_commands(capsys):
    assert script("quality_table")("--commands") == 0
    places = []
    for line in capsys.readouterr().out.splitlines():
        options, _ = sample.parse(shlex.split(line, comments=True)[2:])
        one = len(options.task) * len(options.solver) == 1
        places += [
            options.save_dir if one else options.save_dir / f"{task}-{solver}"
            for task in options.task
            for solver in options.solver
            if catalogue.settings("tasks", task) and catalogue.settings("solvers", solver)
        ]
    assert len(places) > 90 and len(set(places)) == len(places), (
        "every cell has a folder of its own"
    )


def test_two_folders_are_compared_by_name(folder: Path, tmp_path: Path, capsys):
    evaluate, truth = script("evaluate"), tmp_path / "truth"
    truth.mkdir()
    for name in ("a", "b"):
        formats.write(outcome(name).scan.source, truth / f"{name}.png")
    assert evaluate(truth, folder / "recon", "--output", tmp_path / "numbers.json") == 0
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    # The error is a tenth of a ramp from -1 to 1, halved in the report range: mean square 0.0025 / 3 up to the ramp's ends.
    assert abs(numbers["psnr"]["mean"] - 30.79) < 0.05 and numbers["residual"]["mean"] == 1.01
    (truth / "alone.png").write_bytes((truth / "a.png").read_bytes())
    assert evaluate(truth, folder / "recon") == 1 and "alone" in one_line(capsys)
    (truth / "b.png").write_bytes(b"no picture")
    assert evaluate(truth, folder / "recon") == 1
    assert [line.split(": ")[1] for line in capsys.readouterr().err.splitlines()] == [
        "without a partner",
        f"{truth}/b.png",
    ]
    assert evaluate(
        truth, folder / "recon", "--features", "a.npy", "b.npy"
    ) == 2 and "belongs to" in one_line(capsys)
    assert evaluate(truth, folder / "panels") == 2 and one_line(capsys)
    hounsfield = tmp_path / "hounsfield"
    hounsfield.mkdir()
    formats.write(
        formats.Image(formats.read(truth / "a.png").pixels, formats.Meta("dicom", "int16")),
        hounsfield / "a.dcm",
    )
    assert evaluate(
        truth, hounsfield
    ) == 2 and "is a picture; compare it with its source" in one_line(capsys)
    assert evaluate(truth, "--nope") == 2 and one_line(capsys)


@pytest.mark.parametrize("slice_of_volume", ["", "-0001"])
def test_intervals_of_draws_are_compared_with_the_truth(slice_of_volume, tmp_path: Path, capsys):
    """Left of the middle the draws lie around the truth, right of it ten grey levels above, where they spread by two."""
    truth, right = torch.full((1, 16, 16), 100.0), torch.zeros(1, 16, 16)
    right[..., 8:] = 10
    for place in ("truth", "results/recon", "results/samples"):
        (tmp_path / place).mkdir(parents=True)
    meta = formats.Meta("png")
    name = f"a{slice_of_volume}.png"
    formats.write(formats.Image(truth, meta), tmp_path / "truth" / name)
    formats.write(formats.Image(truth + right, meta), tmp_path / "results/recon" / name)
    for k, offset in enumerate((-2, -1, 1, 2)):
        draw = tmp_path / f"results/samples/a-{k:03d}{slice_of_volume}.png"
        formats.write(formats.Image(truth + right + offset, meta), draw)
    words = (tmp_path / "truth", tmp_path / "results/recon", "--output", tmp_path / "n.json")
    assert script("evaluate")(*words) == 0
    assert json.loads((tmp_path / "n.json").read_text())["coverage_90"]["mean"] == 0.5


def test_draws_beyond_the_window_are_no_nearer_to_each_other(tmp_path: Path, capsys):
    """Air of 3.5 in a window from 0, and draws of -2 to 2: half an interval is 2.35 sqrt(5/4) 1.83 = 4.8, and 2.5 if cut at 0."""
    truth, meta = torch.full((1, 16, 16), 3.5), formats.Meta("nifti", "float32")
    truth[0, 0, :2] = torch.tensor([0.0, 100.0])
    for place in ("truth", "results/recon", "results/samples"):
        (tmp_path / place).mkdir(parents=True)
    formats.write(formats.Image(truth, meta), tmp_path / "truth/a.nii.gz")
    formats.write(formats.Image(0 * truth, meta), tmp_path / "results/recon/a.nii.gz")
    for k, offset in enumerate((-2, -1, 1, 2)):
        draw = tmp_path / f"results/samples/a-{k:03d}.nii.gz"
        formats.write(formats.Image(0 * truth + offset, meta), draw)
    words = (tmp_path / "truth", tmp_path / "results/recon", "--output", tmp_path / "n.json")
    assert script("evaluate")(*words) == 0
    numbers = json.loads((tmp_path / "n.json").read_text())
    assert numbers["coverage_90"]["mean"] == 255 / 256


def mixed(where: Path) -> Path:
    """Scans of four formats and depths, one of them a volume, under names that are not all safe."""
    tiny.scans(where, 1)
    (where / "scan0.png").rename(where / "a scan.png")
    pixels = formats.read(where / "a scan.png").pixels
    scan = formats.read(ROOT / "models/demo-data/lung2-ax-035.dcm")
    low = torch.nn.functional.adaptive_avg_pool2d(scan.pixels, 16).round()
    formats.write(
        formats.Image(low, formats.resized(scan.meta, 16 / 256)), where / "ct.dcm", image_id="ct"
    )
    formats.write(
        formats.Image(pixels / 65535, formats.Meta("tiff", "float32")), where / "float.tiff"
    )
    array = (
        (pixels[0, ..., None] / 2 * torch.tensor([1.0, 0.7, 0.9]) - 300)
        .round()
        .numpy()
        .astype(np.int16)
    )
    nibabel.save(
        nibabel.Nifti1Image(array, np.diag([0.8, -0.9, 3.0, 1.0])), where / "volume-0.nii.gz"
    )
    return where


def copied(row: Row, where: Path) -> None:
    """An image as an 8-bit PNG, as it is looked at."""
    where.parent.mkdir(exist_ok=True)
    formats.write(
        formats.Image((255 * to_report(dataset.load(row, 1)[0])).round(), formats.Meta("png")),
        where,
    )


def test_results_of_every_format_are_compared_as_they_were_scored(tmp_path: Path):
    """PSNR of the written files is that of the images before they were written; so is that of 8-bit PNG copies."""
    evaluate, world, truth = (
        script("evaluate"),
        tiny.world(tmp_path / "world"),
        mixed(tmp_path / "truth"),
    )
    assert (
        sample.main(
            tiny.words(world, tmp_path / "out", "--data-root", str(truth), "--solver", "baseline")
        )
        == 0
    )
    records, recon = tiny.records(tmp_path / "out"), tmp_path / "out/recon"
    assert len(records) == 6 and len(list(recon.iterdir())) == 4
    for name in ("a scan", "ct"):  # truth and result have one window
        file = Path(records[name]["files"]["recon"])
        window = tuple(records[name]["contract"])
        copied(
            Row(str(tmp_path / "out" / file), name, window=window),
            tmp_path / "copies" / f"{file.stem}.png",
        )
    for folder, code, held in (
        (recon, 0, list(records)),
        (tmp_path / "copies", 1, ["a scan", "ct"]),
    ):
        assert evaluate(truth, folder, "--output", tmp_path / "n.json") == code
        psnr = json.loads((tmp_path / "n.json").read_text())["psnr"]
        assert psnr["n"] == len(held)
        # 8 bits round by 0.001 (r.m.s.) errors of 0.02 and more: 10 log10(1 + 0.05^2) = 0.01 dB
        assert psnr["mean"] == pytest.approx(
            sum(records[name]["psnr"] for name in held) / len(held), abs=0.02
        )
    copied(Row(f"{truth}/volume-0.nii.gz", "", slice=1), tmp_path / "upright/volume-0-0001.png")
    assert evaluate(truth, tmp_path / "upright", "--output", tmp_path / "n.json") == 1
    assert json.loads((tmp_path / "n.json").read_text())["psnr"]["mean"] > 50, (
        "8 bits of the truth itself, turned as it is"
    )


def test_populations_are_compared_without_weights(tmp_path: Path, capsys):
    evaluate = script("evaluate")
    tiny.scans(tmp_path / "a", 4)
    tiny.scans(tmp_path / "b", 6)
    assert evaluate("offline", tmp_path / "a", tmp_path / "b", "--output", tmp_path / "n.json") == 0
    assert json.loads((tmp_path / "n.json").read_text())["psnr_to_nearest"]["mean"] == 100.0
    assert evaluate(
        "fid", tmp_path / "a", tmp_path / "b", "--weights", tmp_path / "none.pth"
    ) == 2 and one_line(capsys)
    (tmp_path / "hostile.pth").write_bytes(
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R."
    )
    assert (
        evaluate("fid", tmp_path / "a", tmp_path / "b", "--weights", tmp_path / "hostile.pth") == 2
    )
    assert "os.system" in one_line(capsys)


@pytest.mark.parametrize("job", ["train", "sample", "evaluate"])
def test_job_scripts_submit_the_published_flags(job: str, tmp_path: Path):
    """With a stand-in for `runai` that prints its words."""
    script = ROOT / f"deploy/runai/{job}.sh"
    fake = tmp_path / "runai"
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    settings = {
        "IMAGE": "image",
        "PROJECT": "team",
        "DATA": "/scans",
        "LOGS": "/logs",
        "PATH": f"{tmp_path}:/usr/bin:/bin",
    }
    done = subprocess.run(
        [script, "job", "--extra", "two words"],
        env=settings,
        capture_output=True,
        text=True,
        check=True,
    )
    words = done.stdout.split("\n")
    assert words[:4] == ["submit", "job", "--image", "image"]
    assert {"--project", "--gpu", "--cpu", "--memory", "--volume", "--command", "two words"} <= set(
        words
    )
    door = {"train": "main.py", "sample": "sample.py", "evaluate": "scripts/evaluate.py"}[job]
    assert words[words.index("--command") + 1 :][:3] == ["--", "python", door]
    assert words[words.index("--gpu") + 1 : words.index("--volume")] == [
        "1",
        "--cpu",
        "8",
        "--memory",
        "64G",
    ]
    lacking = subprocess.run(
        [script, "job"], env={"PATH": settings["PATH"]}, capture_output=True, text=True
    )
    assert lacking.returncode != 0 and "IMAGE" in lacking.stderr


def test_the_report_is_looked_at_by_parts_of_its_panels(folder: Path):
    text = report.write(folder).read_text()
    assert (
        text.count("class=compare") == 2 and text.count("background-position") == 2 * 4
    )  # slider of two, error, std
    assert (
        "<a href='#image-0'>a</a>" in text
        and "id=image-0" in text
        and "prefers-color-scheme: dark" in text
    )
    assert (
        text.count("<svg") == 1 and ">residual<" in text
    )  # no truth was covered: no histogram of it
    assert not re.search(r"(src|href)=['\"]?(https?:)?//", text)


def test_a_panel_says_where_its_pictures_lie(tmp_path: Path):
    seen = outcome()
    (tmp_path / "panel.png").write_bytes(panels.png(panel(seen)))
    sheet = PIL.Image.open(tmp_path / "panel.png")
    boxes = panels.places(sheet)
    assert list(boxes) == ["truth", "measurement", "restored", "error", "std"]
    shown = np.asarray(sheet.crop(boxes["truth"]).convert("L"))
    truth = to_report(seen.truth)[0].numpy()
    assert shown.shape == (256, 213) and abs(shown[128, 106] / 255 - truth[12, 10]) < 0.06


def test_masks_sinograms_and_spectra_are_shown_as_such():
    masked = replace(outcome(y=outcome().truth), operator={"mask": torch.ones(1, 24, 20)})
    masked.operator["mask"][:, :12] = 0
    pixels = np.asarray(panel(masked).crop(panel(masked).info["tiles"]["measurement"]))
    assert (pixels[:120] == MISSING).all() and not (pixels[136:] == MISSING).all(-1).any()

    sinogram = replace(
        outcome(y=torch.rand(1, 8, 32)), image_like=False, axes=Axes("8 views", "32 cells")
    )
    left, top, right, bottom = panel(sinogram).info["tiles"]["measurement"]
    plain = panel(replace(sinogram, axes=None)).info["tiles"]["measurement"]
    assert (left - plain[0], plain[3] - bottom, right - left) == (AXIS, AXIS, 2 * (256 - AXIS))

    spectrum = torch.full((2, 24, 20), 1e-3)
    spectrum[0, 12, 10] = 1.0
    kspace = replace(
        outcome(y=spectrum), image_like=False, axes=Axes("ky", "kx", True), operator=masked.operator
    )
    tile = np.asarray(panel(kspace).crop(panel(kspace).info["tiles"]["measurement"]))
    assert (
        (tile[5, 50] == MISSING).all() and tile.max() == 255 and 40 < tile[-5, 50, 0] < 90
    )  # 10^-3 of 10^-4 to 1


def test_the_worst_region_is_enlarged_where_asked():
    plain = outcome(draws=False)
    bad = plain.truth.clone()
    bad[:, 4:7, 3:6] += 0.7
    asked = replace(plain, image=bad, zoom=True)
    assert (
        panels.worst_region(asked)[:2] in [(4, 3), (5, 4), (5, 3), (4, 4), (4, 5), (5, 5)]
        and panels.worst_region(asked)[2] == 2
    )
    box = panel(asked).info["tiles"]["error"]
    same, other = (
        np.asarray(panel(o).crop(box)).astype(int) for o in (asked, replace(asked, zoom=False))
    )
    changed = np.argwhere((same != other).any(-1))
    assert changed.max(0)[0] > 250 and changed.max(0)[1] > 205  # the corner that is farthest


def test_the_report_of_a_training_run(tmp_path: Path, capsys):
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(tmp_path / "run/tensorboard"))
    for step in range(5):
        writer.add_scalar("train/loss", 1 / (step + 1), step)
        writer.add_scalar("val/loss", 2 / (step + 1), step)
        writer.add_scalar("train/images per second", 40, step)
        for sigma in ("0.1", "1"):
            writer.add_scalar(f"val/psnr at sigma {sigma}", 20 + step, step)
    writer.add_image("samples", torch.rand(1, 8, 8), 4)
    writer.add_image("denoising", torch.rand(1, 56, 8), 4)
    writer.close()
    assert script("report")(tmp_path / "run") == 0
    text = (tmp_path / "run/report.html").read_text()
    assert (
        "held-out PSNR by level" in text and text.count("<svg") == 4 and "samples, step 4" in text
    )
    named = re.findall("</b> (.*?)</span>", text)  # in legends
    assert named == ["training", "held out", "sigma 0.1", "sigma 1"]
    assert ">train/images per second</text>" in text, "a single curve is told by its axis"
    assert "denoising, step 4: the images; then with noise and denoised" in text
    (tmp_path / "empty/tensorboard").mkdir(parents=True)
    assert script("report")(tmp_path / "empty") == 2 and "holds no numbers yet" in one_line(capsys)


@pytest.mark.parametrize(
    "values", [[1.0], [1.0, 1.0 + 2e-16], [1.0 - 1e-12, 1.0 + 1e-12], [1e9, 1e9 + 1e-6]]
)
def test_values_that_differ_by_rounding_have_a_histogram(values):
    assert "<rect" in plots.bars(values, "residual", mark=1.0)
    assert "<rect" in plots.bars(values, "residual")
