"""What prepare says of its splits, and who is one subject."""

import json
import shlex

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from preparing import DEMO, call, made, picture, rows

from data import manifest
from data.datamodule import ManifestData
from data.prepare.plan import plan
from data.prepare.report import LETTERS, shortened
from data.prepare.within import blocks
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
    planned = plan(
        {"train": dicoms(tmp_path / "in", (" P01", 1), ("P01", 2), ("P02", 3))}, (0.5, 0.5)
    )
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
    assert (
        "train: 3 images" in said
        and "val: empty; " in said
        and "--val-dir" in said
        and "test: empty" in said
    )
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


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9, 40, 181])
def test_blocks_of_slices_lie_apart(count):
    places = blocks(count, ("train", "val", "test"), (0.8, 0.1, 0.1))
    assert len(places) == count and places[0] == "train"
    runs = [split for i, split in enumerate(places) if split and (i == 0 or places[i - 1] != split)]
    assert runs == ["train", "val", "test"][: len(runs)] and len(runs) == min(count, 3)
    if count >= 5:
        assert all("" in (a, b) or a == b for a, b in zip(places, places[1:]))
    if count == 181:
        assert [places.count(split) for split in ("train", "", "val", "test")] == [137, 10, 17, 17]


def head(path, slices=20):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 900, (18, 22, slices)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(pixels, np.eye(4)), path)


def test_one_subject_is_divided_when_that_is_asked_for_and_every_page_says_so(tmp_path, capsys):
    head(tmp_path / "in/head.nii.gz")
    series = dicoms(tmp_path / "in/ct", *[("P01", 1)] * 6)
    for i, path in enumerate(sorted(series.iterdir())):
        ds = pydicom.dcmread(path)
        ds.SeriesInstanceUID, ds.ImagePositionPatient = "2.25.7", [0, 0, 5.0 * (5 - i)]
        ds.save_as(path)
    options = ("--split", "0.6/0.2/0.2", "--within-subject", "--image-size", 16)
    assert call(tmp_path / "in", tmp_path / "out", *options) == 0
    said = capsys.readouterr().out
    assert "A LEAK that was asked for" in said and "are of one subject" not in said
    found = {split: rows(tmp_path / "out", split) for split in ("train", "val", "test")}
    assert all(row.leak == "within-subject" for split in found.values() for row in split)
    slices = {
        s: sorted(int(r.image_id[-4:]) for r in rs if r.image_id.startswith("head"))
        for s, rs in found.items()
    }
    assert max(slices["train"]) + 1 < min(slices["val"]) and max(slices["val"]) + 1 < min(
        slices["test"]
    )
    names = {
        source.image_id: int(source.path.stem)
        for source in plan({"train": tmp_path / "in"}, None).sources
        if source.subject
    }
    order = {
        s: sorted(5 - names[r.image_id] for r in rs if r.image_id in names)
        for s, rs in found.items()
    }
    assert order == {
        "train": [0, 1],
        "val": [3],
        "test": [5],
    }  # along the body, not by the files' names
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["within_subject"] and report["left_out_between"] == 4
    before = {split: [row.sha256 for row in rows(tmp_path / "out", split)] for split in found}
    assert call(tmp_path / "in", tmp_path / "out", *options) == 0  # from its journal
    assert before == {
        split: [row.sha256 for row in rows(tmp_path / "out", split)] for split in found
    }
    data = ManifestData(str(tmp_path / "out/train.csv"), str(tmp_path / "out/val_images.txt"))
    assert data.validates and "within-subject split" in data.doubts


def test_a_split_that_got_nothing_is_an_empty_manifest_and_training_does_without(tmp_path, capsys):
    head(tmp_path / "in/head.nii.gz", 20)
    assert (
        call(tmp_path / "in", tmp_path / "out", "--split", "0.8/0.1/0.1", "--image-size", 16) == 0
    )
    assert "val: empty; training keeps its last weights" in capsys.readouterr().out
    lists = [str(tmp_path / f"out/{split}_images.txt") for split in ("train", "val")]
    data = ManifestData(*lists, batch_size=4)
    assert not data.validates and data.doubts.startswith("training images")
    assert (
        sum(len(batch["image"]) for batch in data.val_dataloader()) == 16
    )  # of the 20 that are trained on
    assert manifest.leak(lists[0]) == ""


def test_within_subject_says_how_a_split_divides(tmp_path, capsys):
    picture(tmp_path / "in/a.png")
    assert call(tmp_path / "in", tmp_path / "out", "--within-subject") == 2
    assert "--within-subject says how --split divides" in capsys.readouterr().err


def test_twelve_bits_in_sixteen_are_remarked(tmp_path, capsys):
    picture(tmp_path / "in/a.png", dtype=np.uint16, part=1)
    pixels = made(tmp_path / "in/a.png") // 16
    Image.fromarray(pixels).save(tmp_path / "in/a.png")
    assert call(tmp_path / "in", tmp_path / "out", "--image-size", 16) == 0
    assert "12 bits stored in 16? --window 0:4095" in capsys.readouterr().out
    assert call(tmp_path / "in", tmp_path / "wide", "--image-size", 16, "--window", "0:4095") == 0
    assert "12 bits" not in capsys.readouterr().out


def test_eight_bits_are_not_taken_for_twelve_and_black_images_are_counted(tmp_path, capsys):
    for i in range(2):
        Image.fromarray(np.full((20, 20), i * 9, np.uint8)).save(tmp_path / f"{i}.png")
    assert call(tmp_path, tmp_path.with_name("out"), "--image-size", 16) == 0
    said = capsys.readouterr().out
    assert "12 bits" not in said and "train: 1 images are black; --min-foreground" in said


def test_files_that_cannot_be_read_take_no_share_and_are_nobody_s(tmp_path, capsys):
    source = dicoms(tmp_path / "in", ("A", 1), ("B", 2))
    for i in range(6):
        (source / f"bad{i}.dcm").write_bytes(bytes(128) + b"DICM" + b"cut")
    assert call(source, tmp_path / "out", "--split", "0.5/0.5", "--image-size", 16) == 1
    said = capsys.readouterr().out
    assert [len(rows(tmp_path / "out", split)) for split in ("train", "val")] == [1, 1]
    assert "6 files could not be read" in said and "subject is not known" not in said


def test_a_split_of_which_no_file_could_be_read_is_told(tmp_path, capsys):
    picture(tmp_path / "in/a.png"), (tmp_path / "val").mkdir()
    (tmp_path / "val/b.png").write_bytes(b"cut")
    options = ("--val-dir", tmp_path / "val", "--image-size", 16)
    assert call(tmp_path / "in", tmp_path / "out", *options) == 1
    assert "val: has no images" in capsys.readouterr().out


def test_a_long_name_fits_below_its_picture():
    assert shortened("head-0007") == "head-0007"
    name = "a" * 40 + "-0123"
    assert (
        len(shortened(name)) <= LETTERS and shortened(name).endswith("-0123") and LETTERS * 6 < 160
    )
