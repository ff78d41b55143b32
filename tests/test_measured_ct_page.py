"""docs/measured-ct.md is a promise: its flags are flags, its YAML is read, and its commands lead from a file to DICOM."""

import json
import re
import shlex
from pathlib import Path

import pydicom
import pytest
import simulate_ct

import sample
from data import formats
from data.formats.sinogram.description import described
from solvers.run import flags

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/measured-ct.md").read_text()
COMMANDS = [
    shlex.split(line)[1:] for line in re.search(r"```sh\n(.*?)```", PAGE, re.S)[1].splitlines()
]


def test_the_page_is_understood(tmp_path):
    assert [words[0] for words in COMMANDS] == ["scripts/simulate_ct.py", "sample.py"]
    assert not flags.parse(COMMANDS[1][1:], "")[2]
    (tmp_path / "scan.yaml").write_text(re.search(r"```yaml\n(.*?)```", PAGE, re.S)[1])
    said = described(tmp_path / "scan.yaml")
    assert said.offset == 0.25 and said.image() == (256, 256, 1.25) and said.bad(60, 256).sum() == 5


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
def test_a_stack_of_fans_becomes_a_series_in_hounsfield_units(tmp_path, monkeypatch):
    """The page's commands for two slices, a curved detector, clockwise, a misplaced axis: soft tissue within 10 HU."""
    for name in ("configs", "models", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slices").mkdir()
    names = ["lung2-ax-035.dcm", "lung2-ax-040.dcm"]
    for name in names:
        (tmp_path / "slices" / name).symlink_to(ROOT / "models/demo-data" / name)
    simulate = [
        "slices",
        *COMMANDS[0][2:],
        "--detector",
        "curved",
        "--direction",
        "clockwise",
        "--misplaced",
        "1.5",
    ]
    assert simulate_ct.main(simulate) == 0
    assert (
        sample.main([*COMMANDS[1][1:], "--center", "auto", "--steps", "8", "--accelerator", "cpu"])
        == 0
    )
    records = [
        json.loads(line)
        for line in (tmp_path / "results/scan/records.jsonl").read_text().splitlines()
    ]
    assert len(records) == 2 and all(
        record["status"] == "ok" and 0.8 < record["residual"] < 1.3 for record in records
    )
    series = sorted((tmp_path / "results/scan/recon").glob("scan/*.dcm"))
    assert len(series) == 2
    truths = [pydicom.dcmread(tmp_path / "slices" / name) for name in names]
    for path, truth in zip(
        series, sorted(truths, key=lambda ds: float(ds.ImagePositionPatient[2]))
    ):
        ds = pydicom.dcmread(path)
        assert (
            max(
                abs(float(a) - float(b))
                for a, b in zip(ds.ImagePositionPatient, truth.ImagePositionPatient)
            )
            < 0.01
        )
        found, was = formats.read(path).pixels, formats.read(truth.filename).pixels
        soft = (was > -50) & (was < 80)
        assert abs(float((found - was)[soft].mean())) < 10
