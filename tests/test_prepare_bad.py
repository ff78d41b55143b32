"""Preparation of what is wrong: one line each, nothing half-written, nobody in two splits, and it can be killed."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from preparing import DEMO, SCRIPT, call, everything, made, picture, rows

from data.prepare import convert


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    return folder


def test_a_subject_in_two_folders_is_a_leak(source, tmp_path, capsys):
    picture(source / "p1_a.png")
    picture(tmp_path / "test" / "p1_b.png")
    assert call(source, tmp_path / "out", "--test-dir", tmp_path / "test", "--subject", "^p.") == 2
    message = capsys.readouterr().err
    assert "leak" in message and message.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize("inner", [".", "sub"])
def test_a_folder_of_one_split_inside_of_another_is_a_leak(source, tmp_path, capsys, inner):
    picture(source / "sub" / "a.png")
    assert call(source, tmp_path / "out", "--test-dir", source / inner) == 2
    assert "a leak" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_the_same_picture_in_two_splits_is_told(source, tmp_path, capsys):
    for i in range(3):
        picture(source / f"{i}.png", seed=i)
        picture(tmp_path / "test" / f"t{i}.png", seed=10 + i)
    picture(tmp_path / "test" / "copy.png", seed=1)
    for black in (
        source / "black.png",
        tmp_path / "test" / "empty.png",
    ):  # no two scans, but two that show nothing
        Image.fromarray(np.zeros((40, 40), np.uint8)).save(black)
    assert call(source, tmp_path / "out", "--image-size", 16, "--test-dir", tmp_path / "test") == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["twins"] == [["train/1.png", "test/copy.png"]]
    assert "A LEAK: 1 pictures are in two splits" in capsys.readouterr().out


def test_output_among_the_input_is_refused(tmp_path, capsys):
    """`out/train/a.png` would take the place of the image of that name."""
    before = picture(tmp_path / "set" / "train" / "a.png").tobytes()
    picture(tmp_path / "set" / "train" / "deep" / "a.png")
    for source, out in (
        ("set", "set/out"),
        ("set", "set"),
        ("set/train", "set"),
        ("set/train/deep", "set"),
    ):
        assert call(tmp_path / source, tmp_path / out) == 2
        message = capsys.readouterr().err
        assert ("next time" in message or "choose another" in message) and message.count("\n") == 1
    assert made(tmp_path / "set" / "train" / "a.png").tobytes() == before


@pytest.fixture
def damaged(source):
    picture(source / "good.png", seed=1)
    (source / "cut.png").write_bytes((source / "good.png").read_bytes()[:300])
    (source / "empty.dcm").touch()
    (source / "renamed.jpg").write_bytes((source / "good.png").read_bytes())
    (source / "note.txt").write_text("no image")
    np.save(source / "nan.npy", np.full((4, 4), np.nan, np.float32))
    (source / "half.nii.gz").write_bytes((DEMO / "brain2.nii.gz").read_bytes()[:5000])
    (source / "loop.png").symlink_to(source / "loop.png")
    (source / "circle").symlink_to(source, target_is_directory=True)
    return source


def test_bad_files_are_skipped_counted_and_told(damaged, tmp_path, capsys):
    assert call(damaged, tmp_path / "out", "--image-size", 16) == 1
    said = capsys.readouterr().out
    skipped = json.loads((tmp_path / "out" / "report.json").read_text())["skipped"]
    assert sorted(entry["file"] for entry in skipped) == sorted(
        ["cut.png", "empty.dcm", "renamed.jpg", "nan.npy", "half.nii.gz", "loop.png"]
    )
    assert all(entry["reason"] and "\n" not in entry["reason"] for entry in skipped)
    assert "6 files could not be read" in said and "1 other files" in said
    assert [row.image_id for row in rows(tmp_path / "out")] == ["good"]
    assert sorted(p.name for p in (tmp_path / "out" / "train").iterdir()) == ["good.png"]


def test_unreadable_folders_are_told(source, tmp_path, capsys, monkeypatch):
    picture(source / "a.png")
    picture(source / "secret" / "b.png")
    real = os.scandir  # permissions do not stop the superuser, who may run the tests

    def guarded(path):
        if str(path).endswith("secret"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert call(source, tmp_path / "out") == 1
    assert "secret: Permission denied" in capsys.readouterr().out
    assert [row.image_id for row in rows(tmp_path / "out")] == ["a"]
    assert call(source, tmp_path / "out", "--strict") == 2


def test_strict(damaged, tmp_path, capsys):
    assert call(damaged, tmp_path / "out", "--strict") == 2
    assert "cut.png: " in capsys.readouterr().err
    assert not (tmp_path / "out" / "train.csv").exists()


@pytest.mark.parametrize(
    "options, reason",
    [
        (("--window", "5:1"), "low < high"),
        (("--window", "0:1", "--percentiles", "0:100"), "not both"),
        (("--percentiles", "0:101"), "0 <= low < high <= 100"),
        (("--split", "0.8/0.3"), "sum to 1"),
        (("--split", "half"), "not of the form"),
        (("--subject", "("), "no regular expression"),
        (("--subject", "^q"), "is not found in"),
        (("--image-size", "0"), "image size 0: 1 to 16384"),
        (("--image-size", "1000000000"), "1 to 16384"),
        (("--image-size", "wide"), "invalid int value"),
        (("--workers", "0"), "at least 1"),
        (("--workers", "100000"), "at most 256"),
        (("--val-dir", "/nowhere"), "no such folder"),
        (("--window", "5"), "'5' is not LOW:HIGH"),
        (("--window", "a:b"), "'a:b' is not LOW:HIGH"),
        (("--window", "-1000:inf"), "both finite"),
        (("--window", "nan:1"), "low < high"),
        (("--percentiles", "nan:5"), "0 <= low < high <= 100"),
        (("--split", "nan/0.5/0.5"), "sum to 1"),
        (("--split", "1.5/-0.5"), "sum to 1"),
        (("--split", "0.4/0.3/0.2/0.1"), "two or three shares"),
        (("--split", ""), "not of the form"),
        (("--slice-axis", "3"), "0, 1 or 2"),
        (("--min-foreground", "nan"), "0 to 1"),
        (("--bit-depth", "12"), "choose from 8, 16"),
        (("--colour",), "unrecognized arguments"),
    ],
)
def test_mistakes_are_one_line(source, tmp_path, capsys, options, reason):
    picture(source / "a.png")
    assert call(source, tmp_path / "out", *options) == 2
    message = capsys.readouterr().err
    assert reason in message and message.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_names_that_cannot_be_printed(source, tmp_path, capsysbinary):
    fine = picture(source / "fine.png", (16, 16)).tobytes()
    for name in (b"good\xff.png", b"two\nlines.png", b"\x1b[31mred.png", b'=1+2, "x".png'):
        (Path(os.fsdecode(bytes(source) + b"/" + name))).write_bytes(
            (source / "fine.png").read_bytes()
        )
        (Path(os.fsdecode(bytes(source) + b"/bad-" + name))).write_bytes(b"x")
    assert call(source, tmp_path / "out", "--image-size", 16) == 1
    said = capsysbinary.readouterr().out
    assert rb"bad-good\udcff.png" in said and rb"bad-two\nlines.png" in said and b"\x1b" not in said
    found = rows(tmp_path / "out")
    assert not [row for row in found if row.image_id[0] in "=+-@"], (
        "a spreadsheet would compute them"
    )
    assert len(found) == 5 and {made(row.path).tobytes() for row in found} == {fine}
    assert len(json.loads((tmp_path / "out" / "report.json").read_text())["skipped"]) == 4
    assert call(source, tmp_path / "out", "--image-size", 16, "--strict") == 2
    assert capsysbinary.readouterr().err.decode().splitlines()[-1].startswith("prepare: bad-")


def test_no_images(source, tmp_path, capsys):
    (source / "a.txt").touch()
    assert call(source, tmp_path / "out") == 2 and "no image in it" in capsys.readouterr().err


def test_full_disk(source, tmp_path, capsys, monkeypatch):
    for i in range(3):
        picture(source / f"{i}.png", seed=i)
    renames = []

    def full(part, path):
        renames.append(path)
        if len(renames) == 2:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        rename(part, path)

    rename = os.replace
    monkeypatch.setattr(os, "replace", full)
    assert call(source, tmp_path / "out") == 2
    assert "No space left" in capsys.readouterr().err.splitlines()[-1]
    assert [p.name for p in (tmp_path / "out" / "train").iterdir()] == ["0.png"]
    assert not (tmp_path / "out" / "train.csv").exists()


def test_killed_and_restarted_is_the_same_as_unbroken(source, tmp_path, monkeypatch):
    for i in range(8):
        picture(source / f"{i}.png", seed=i)
    assert call(source, tmp_path / "whole", "--image-size", 16) == 0
    works = []
    real = convert.work

    def interrupted(file, *rest):
        works.append(file.name)
        if len(works) == 4:
            raise KeyboardInterrupt
        return real(file, *rest)

    monkeypatch.setattr(convert, "work", interrupted)
    assert call(source, tmp_path / "broken", "--image-size", 16) == 130
    with (tmp_path / "broken" / ".progress.jsonl").open("ab") as stream:
        stream.write(b'{"file": "3.png", "spl')  # the kill came while a line was being written
    assert call(source, tmp_path / "broken", "--image-size", 16) == 0
    assert works == [f"{i}.png" for i in (0, 1, 2, 3, 3, 4, 5, 6, 7)]
    assert everything(tmp_path / "broken") == everything(tmp_path / "whole")
    (tmp_path / "broken" / "train" / "5.png").unlink()
    picture(source / "6.png", seed=99)
    works[:] = [""] * 9
    assert call(source, tmp_path / "broken", "--image-size", 16) == 0
    assert works[9:] == ["5.png", "6.png"]
    works[:] = [""] * 9
    assert call(source, tmp_path / "broken", "--image-size", 12) == 0
    assert len(works) == 17 and made(tmp_path / "broken" / "train" / "0.png").shape == (12, 12)


def test_kill_9_leaves_nobody_behind_and_the_rest_is_made_later(source, tmp_path, capsys):
    """The real program with real workers."""
    for i in range(200):
        picture(source / f"{i}.png", (128, 128), seed=i)
    out = tmp_path / "broken"
    command = [
        sys.executable,
        SCRIPT,
        "--train-dir",
        source,
        "--output-root",
        out,
        "--workers",
        "2",
    ]
    running = subprocess.Popen(
        list(map(str, command)),
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )
    wait_for(lambda: len(list(out.glob("train/*.png"))) > 5)
    assert call(source, out) == 2 and "another preparation" in capsys.readouterr().err
    workers = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    running.kill()
    running.wait()
    assert len(workers) == 2 and len((out / ".progress.jsonl").read_text().splitlines()) < 200
    wait_for(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
    (out / "train" / ".0.png.1").write_bytes(b"half")
    assert call(source, out) == call(source, tmp_path / "whole") == 0
    assert everything(out) == everything(tmp_path / "whole")


def wait_for(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_lost_lines_of_the_journal_are_made_again(source, tmp_path):
    for i in range(3):
        picture(source / f"{i}.png", seed=i)
    assert call(source, tmp_path / "out", "--image-size", 16) == 0
    before, journal = everything(tmp_path / "out"), tmp_path / "out" / ".progress.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:2], bytes(len(lines[2]) - 1) + b"\n", lines[3]]))
    assert call(source, tmp_path / "out", "--image-size", 16) == 0
    assert (
        everything(tmp_path / "out") == before
        and journal.read_bytes().splitlines(keepends=True) == lines
    )
