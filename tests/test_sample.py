"""The door: tiny random priors, real files, whole runs."""

import json
from pathlib import Path

import pytest
import tiny
import torch

import sample
from data import formats


@pytest.fixture
def world(tmp_path: Path) -> Path:
    tiny.folder(tmp_path / "latent", tiny.latent())
    tiny.folder(tmp_path / "pixel", tiny.pixel())
    tiny.scans(tmp_path / "scans")
    tiny.task(tmp_path / "sr.yaml")
    tiny.task(tmp_path / "mask.yaml", "RandomInpainting")
    tiny.solver(tmp_path / "codps.yaml", steps=4)
    tiny.solver(tmp_path / "daps.yaml", "daps.DAPS", steps=3)
    return tmp_path


def run(world: Path, *words: str, model: str = "pixel", task: str = "sr", solver: str = "codps", out: str = "out") -> int:
    named = ["--task", f"{world}/{task}.yaml", "--solver", f"{world}/{solver}.yaml", "--model", f"{world}/{model}"]
    return sample.main([*named, "--data-root", f"{world}/scans", "--save-dir", f"{world}/{out}", "--accelerator", "cpu", *words])


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


def test_a_folder_of_scans_is_restored(world: Path):
    assert run(world) == 0
    out = world / "out"
    assert [r["image_id"] for r in records(out)] == ["scan0", "scan1", "scan2"]
    for record in records(out):
        assert record["status"] == "ok" and record["nfe"] == 4 and record["seed"] == 0
        assert {"psnr", "ssim", "nmse", "residual", "baseline_psnr", "seconds", "vjps", "files"} <= record.keys()
        restored = formats.read(out / record["files"]["recon"])
        assert restored.meta.dtype == "uint16" and restored.pixels.shape == (1, 16, 16)
        assert all((out / file).is_file() for file in record["files"].values())
    summary = json.loads((out / "summary.json").read_text())
    assert summary["images"] == 3 and summary["psnr"]["n"] == 3 and summary["failed"] == []
    assert (out / "report.html").read_text().count("data:image/png") == 3
