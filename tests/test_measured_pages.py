"""docs/measured-mri.md is a promise: its flags are flags, its YAML is read, and its commands lead from a file to DICOM."""

import json
import re
import shlex
from pathlib import Path

import evaluate
import pytest
import simulate_raw
import tiny
import yaml

import sample
from data.formats.kspace.description import described
from solvers.run import flags

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/measured-mri.md").read_text()
COMMANDS, RADIAL = (
    [shlex.split(line)[1:] for line in block.splitlines()]
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S)
)
DOORS = {
    "scripts/simulate_raw.py": simulate_raw.main,
    "sample.py": sample.main,
    "scripts/evaluate.py": evaluate.main,
}


def linked(folder: Path, monkeypatch) -> None:
    for name in ("configs", "models", "scripts"):
        (folder / name).symlink_to(ROOT / name)
    monkeypatch.chdir(folder)


def test_the_page_is_understood(tmp_path):
    assert [words[0] for words in COMMANDS] == list(DOORS)
    assert flags.parse(COMMANDS[1][1:], "")[2] == []
    (tmp_path / "scan.yaml").write_text(re.search(r"```yaml\n(.*?)```", PAGE, re.S)[1])
    assert described(tmp_path / "scan.yaml").slice_step == 6.5
    assert set(yaml.safe_load((tmp_path / "scan.yaml").read_text())) <= set(
        described(tmp_path / "none.yaml").__dict__
    )


@pytest.mark.slow
def test_the_commands_of_the_page_run(tmp_path, monkeypatch):
    """Two slices, two coils and a small network of random weights: what comes of it is only counted."""
    linked(tmp_path, monkeypatch)
    tiny.folder(tmp_path / "model", tiny.pixel())
    assert simulate_raw.main([*COMMANDS[0][1:], "--slices", "2", "--coils", "2"]) == 0
    few = ["--model", "model", "--steps", "2", "--accelerator", "cpu"]
    assert sample.main([*COMMANDS[1][1:], *few]) == 0
    folder = tmp_path / "results/scan/recon"
    assert len(list(folder.glob("*/*.dcm"))) == 2
    assert evaluate.main(COMMANDS[2][1:]) == 0


@pytest.mark.slow
def test_the_radial_commands_of_the_page_run(tmp_path, monkeypatch):
    linked(tmp_path, monkeypatch)
    tiny.folder(tmp_path / "model", tiny.pixel())
    assert simulate_raw.main([*RADIAL[0][1:], "--coils", "2"]) == 0
    few = ["--model", "model", "--steps", "2", "--accelerator", "cpu"]
    assert sample.main([*RADIAL[1][1:], *few]) == 0
    record = json.loads((tmp_path / "results/radial/records.jsonl").read_text())
    assert (
        record["status"] == "ok"
        and (tmp_path / "results/radial" / record["files"]["recon"]).exists()
    )


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
def test_sixteen_slices_of_eight_coils_become_a_series(tmp_path, monkeypatch):
    """The page as it stands, with the shipped prior; 20 s of one core a slice."""
    linked(tmp_path, monkeypatch)
    for words in COMMANDS:
        assert DOORS[words[0]](words[1:]) == 0
    records = [
        json.loads(line)
        for line in (tmp_path / "results/scan/records.jsonl").read_text().splitlines()
    ]
    assert len(records) == 16 and all(
        record["status"] == "ok" and 0.8 < record["residual"] < 1.3 for record in records
    )
    assert len(list((tmp_path / "results/scan/recon").glob("*/*.dcm"))) == 16
