"""What prepare says of its splits, and who is one subject."""

import shlex

import pydicom
import pytest
from preparing import DEMO, call, picture, rows

from data.prepare.plan import plan
from ldm import config as configuration


def dicoms(folder, *people):
    """One slice of each (PatientID, StudyInstanceUID), with UIDs and pixels of its own."""
    folder.mkdir()
    for i, (patient, study) in enumerate(people):
        ds = pydicom.dcmread(DEMO / f"lung2-ax-0{20 + 5 * i}.dcm")
        ds.PatientID, ds.StudyInstanceUID = patient, f"2.25.{study}"
        ds.save_as(folder / f"{i}.dcm")
    return folder


def test_blanks_around_an_id_make_no_other_subject(tmp_path):
    planned = plan({"train": dicoms(tmp_path / "in", (" P01", 1), ("P01", 2), ("P02", 3))}, (0.5, 0.5))
    subjects = {source.name: source.subject for source in planned.sources}
    assert subjects["0.dcm"] == subjects["1.dcm"] != subjects["2.dcm"]
    picture(tmp_path / "paths/a P01.png"), picture(tmp_path / "paths/bP01.png")
    found = plan({"train": tmp_path / "paths"}, subject="[ab](.*)[.]").sources
    assert {source.subject for source in found} == {"P01"}


def test_equal_ids_cannot_be_divided_but_studies_can(tmp_path, capsys):
    source = dicoms(tmp_path / "in", ("ANON", 1), ("ANON", 1), ("ANON", 2))
    assert call(source, tmp_path / "out", "--split", "0.5/0.5", "--image-size", 16) == 0
    said = capsys.readouterr().out
    assert "all files are of one subject" in said and "--subject StudyInstanceUID" in said
    assert "train: 3 images" in said and "val: empty; " in said and "--val-dir" in said and "test: empty" in said
    studies = ["--split", "0.5/0.5", "--subject", "StudyInstanceUID", "--image-size", 16]
    assert call(source, tmp_path / "studies", *studies) == 0
    assert "one subject" not in capsys.readouterr().out
    assert sorted(len(rows(tmp_path / "studies", split)) for split in ("train", "val")) == [1, 2]


@pytest.mark.parametrize("split", [(), ("--split", "0.5/0.5")])
def test_the_next_command_is_ready_to_paste(tmp_path, capsys, split):
    picture(tmp_path / "in/a.png"), picture(tmp_path / "in/b.png", seed=1)
    assert call(tmp_path / "in", tmp_path / "my scans", "--image-size", 16, *split) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("next: "))
    python, script, base, file, train, *changes = shlex.split(line.removeprefix("next: "))
    assert (python, script, base, train) == ("python", "main.py", "--base", "--train")
    data = configuration.load([file], changes)["data"]["params"]
    assert data["train"] == str(tmp_path / "my scans/train_images.txt")
    assert data["validation"] == (str(tmp_path / "my scans/val_images.txt") if split else None)
