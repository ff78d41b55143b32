"""Preparation: what is written is what was read, named and divided as asked, and told in the report."""

import json
import os
import random
import subprocess
import sys

import numpy as np
import pydicom
import pytest
from PIL import Image, ImageOps
from preparing import DEMO, SCRIPT, call, everything, made, picture, rows

from data import formats
from data.manifest import check
from data.prepare.plan import plan


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    return folder


def test_published_behaviour(source, tmp_path):
    """Centre-fit and Lanczos to a square, `<stem>.png` flat in the split, as published; manifests are relative."""
    colour = picture(source / "Scan.JPG.png", (30, 50, 3), part=0.4)
    gray = picture(source / "sub" / "b.PNG", (64, 48), part=0.4)
    assert call(source, tmp_path / "out", "--image-size", 16, "--write-manifests") == 0
    listed = (tmp_path / "out" / "train_images.txt").read_text()
    assert listed == "train/Scan.JPG.png\ntrain/sub__b.png\n"
    for name, pixels in (("Scan.JPG", colour), ("sub__b", gray)):
        expected = np.asarray(
            ImageOps.fit(Image.fromarray(pixels), (16, 16), Image.Resampling.LANCZOS)
        ).astype(int)
        # Pillow rounds 8-bit pictures after each of its two passes (1/2 each, times a gain of the filter below 1.5), ours
        # once; it also clips between them, so the noise stays away from black and white
        assert (
            np.abs(made(tmp_path / "out" / "train" / f"{name}.png").astype(int) - expected).max()
            <= 2
        )
    assert check(tmp_path / "out" / "train.csv", checksums=True) == 2


@pytest.mark.parametrize(
    "suffix", [".png", ".PNG", ".jpg", ".JPEG", ".bmp", ".BMP", ".tif", ".TIFF"]
)
def test_published_suffixes_and_their_capitals(source, tmp_path, suffix):
    pixels = picture(source / f"a{suffix}", (16, 16))
    assert call(source, tmp_path / "out", "--image-size", 16) == 0
    (row,) = rows(tmp_path / "out")
    assert row.image_id == "a" and ("j" in suffix.lower() or (made(row.path) == pixels).all())


def test_deep_input_is_never_clipped(source, tmp_path):
    pixels = np.array([[300, 4096], [0, 65535]], np.uint16).repeat(8, 0).repeat(8, 1)
    Image.fromarray(pixels).save(source / "deep.png")
    Image.fromarray(pixels).save(source / "deep2.TIFF")
    assert call(source, tmp_path / "out", "--image-size", 16) == 0
    for row in rows(tmp_path / "out"):
        assert (made(row.path) == pixels).all() and row.window == (0, 65535)
    assert call(source, tmp_path / "eight", "--image-size", 16, "--bit-depth", 8) == 0
    assert {made(row.path).dtype for row in rows(tmp_path / "eight")} == {np.dtype(np.uint8)}


def test_dicom_window_default_and_percentiles(source, tmp_path):
    scan = DEMO / "lung2-ax-035.dcm"
    (source / "IM0001").write_bytes(scan.read_bytes())  # no suffix, as on discs
    hu = formats.read(scan).pixels[0].numpy().astype(np.float64)
    for options, (low, high) in {
        (): (hu.min(), hu.max()),
        ("--window", "-1000:400"): (-1000, 400),
        ("--percentiles", "1:99"): tuple(
            np.sort(hu.ravel())[np.round((hu.size - 1) * np.array([0.01, 0.99])).astype(int)]
        ),
    }.items():
        out = tmp_path / "-".join(["out", *options]).replace(":", "_")
        assert call(source, out, *options) == 0
        (row,) = rows(out)
        expected = ((hu - low) / (high - low)).clip(0, 1) * 65535
        # float32 has 24 bits of the window's width, so a sixteen-bit level is off by at most one
        assert np.abs(made(row.path) - expected).max() <= 1


def test_volumes_become_upright_slices(source, tmp_path):
    (source / "v.nii.gz").write_bytes((DEMO / "brain2.nii.gz").read_bytes())
    assert call(source, tmp_path / "out", "--window", "0:1523") == 0
    found = rows(tmp_path / "out")
    assert [row.image_id for row in found] == [f"v-{i:04d}" for i in range(5)]
    for i, row in enumerate(found):
        expected = (
            formats.upright(formats.read(source / "v.nii.gz", i)).pixels[0].numpy() / 1523 * 65535
        )
        assert np.abs(made(row.path) - expected.clip(0, 65535)).max() <= 1
    assert (
        call(
            source,
            tmp_path / "side",
            "--slice-axis",
            0,
            "--image-size",
            8,
            "--min-foreground",
            0.05,
        )
        == 0
    )
    report = json.loads((tmp_path / "side" / "report.json").read_text())["train"]
    assert report["images"] + report["passed_over"] == 256 and report["passed_over"] > 0


def test_grayscale_and_colour(source, tmp_path):
    pixels = picture(source / "a.png", (16, 16, 3))
    assert (
        call(source, tmp_path / "c", "--image-size", 16)
        == call(source, tmp_path / "g", "--image-size", 16, "--grayscale")
        == 0
    )
    assert (made(rows(tmp_path / "c")[0].path) == pixels).all()
    gray = made(rows(tmp_path / "g")[0].path)
    assert gray.shape == (16, 16) and np.abs(gray - pixels @ [0.299, 0.587, 0.114]).max() <= 0.51


def test_names_never_collide(source, tmp_path):
    for i, name in enumerate(
        ["a/x.png", "b/x.png", "a__x.png", "x.png", "x.tif", "X.png", "a/b__x.png", "a__b/x.png"]
    ):
        picture(source / name, seed=i)
    assert call(source, tmp_path / "out", "--image-size", 40) == 0
    found = rows(tmp_path / "out")
    assert len({row.image_id.lower() for row in found}) == 8
    assert len({made(row.path).tobytes() for row in found}) == 8


def test_division_by_subject(source, tmp_path):
    for i in range(40):
        picture(source / f"p{i // 4:02d}_{i}.png", (4, 4), seed=i)
    assert (
        call(
            source,
            tmp_path / "out",
            "--image-size",
            4,
            "--subject",
            r"^p\d\d",
            "--split",
            "0.6/0.2/0.2",
        )
        == 0
    )
    homes = {
        split: {row.subject for row in rows(tmp_path / "out", split)}
        for split in ("train", "val", "test")
    }
    assert [len(homes[split]) for split in ("train", "val", "test")] == [6, 2, 2]
    assert len(set.union(*homes.values())) == 10


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 10, 100])
def test_shares_are_kept_and_no_split_is_empty_if_it_need_not_be(source, n):
    for i in range(n):
        picture(source / f"{i}.png", (2, 2))
    planned = plan({"train": source}, (0.8, 0.1, 0.1))
    counts = [sum(s.split == split for s in planned.sources) for split in ("train", "val", "test")]
    assert sum(counts) == n and all(
        abs(c - s * n) < 1 or n < 10 for c, s in zip(counts, (0.8, 0.1, 0.1))
    )
    assert n < 3 or min(counts) > 0
    again = plan({"train": source}, (0.8, 0.1, 0.1))
    assert again.sources == planned.sources


def test_patients_are_told_apart_but_never_named(source, tmp_path):
    scan = pydicom.dcmread(DEMO / "lung2-ax-035.dcm")
    for i, name in enumerate(["Doe^Jane", "Doe^Jane", "Roe^Richard"]):
        scan.PatientName, scan.PatientID = name, f"ID-{name}"
        folder = source / name.replace("^", "_")
        folder.mkdir(exist_ok=True)
        scan.InstanceNumber = i
        scan.save_as(folder / f"{i}.dcm")
    assert call(source, tmp_path / "out", "--image-size", 16, "--split", "0.5/0.5") == 0
    assert (
        len({row.subject for split in ("train", "val") for row in rows(tmp_path / "out", split)})
        == 2
    )
    for path in (tmp_path / "out").rglob("*"):
        assert "Doe" not in path.name and "Roe" not in path.name
        if path.suffix in (".csv", ".txt"):
            assert "oe" not in path.read_text()


def test_upper_case_and_mixed_formats(source, tmp_path):
    (source / "V.NII.GZ").write_bytes((DEMO / "brain2.nii.gz").read_bytes())
    (source / "S.DCM").write_bytes((DEMO / "lung2-ax-035.dcm").read_bytes())
    for name in ("a.PNG", "b.JPEG", "c.TIFF", "d.BMP"):
        picture(source / name, (16, 16))
    assert call(source, tmp_path / "out", "--image-size", 16) == 0
    found = {row.image_id: row for row in rows(tmp_path / "out")}
    assert {*"abcd"} | {f"V-{i:04d}" for i in range(5)} < set(found) and len(found) == 10
    deep = {name: made(row.path).dtype.itemsize for name, row in found.items()}
    assert all(size == (1 if name in {*"abcd"} else 2) for name, size in deep.items())


def test_what_was_decided_for_the_user_is_said(source, tmp_path, capsys):
    picture(source / "a.png")
    np.save(source / "b.npy", np.eye(8, dtype=np.float32))
    assert call(source, tmp_path / "out", "--split", "0.5/0.5") == 0
    said = capsys.readouterr().out
    assert "of 2 files the subject is not known" in said and "least to the greatest" in said


def test_skip_existing_keeps_what_is_there(source, tmp_path):
    for i in range(2):
        picture(source / f"{i}.png", seed=i)
    (tmp_path / "out" / "train").mkdir(parents=True)
    mine = picture(tmp_path / "out" / "train" / "0.png", (16, 16), np.uint16, seed=7)
    assert call(source, tmp_path / "out", "--image-size", 16, "--skip-existing") == 0
    assert (made(tmp_path / "out" / "train" / "0.png") == mine).all()
    assert [row.window for row in rows(tmp_path / "out")] == [(0, 65535), (0, 255)]
    assert check(tmp_path / "out" / "train.csv", checksums=True) == 2


def test_report_and_contact_sheet(source, tmp_path, capsys):
    picture(source / "a.png", (20, 30))
    picture(source / "b.png", (64, 64), np.uint16)
    (tmp_path / "out" / "train").mkdir(parents=True)
    picture(tmp_path / "out" / "train" / "old.png")
    assert call(source, tmp_path / "out", "--image-size", 32) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())["train"]
    assert report["source_shapes"] == {"20x30": 1, "64x64": 1}
    assert (report["images"], report["enlarged"], report["strays"]) == (2, 1, 1)
    assert sum(report["histogram"]) == 2 * 32 * 32
    assert "1 enlarged, 1 strays" in capsys.readouterr().out
    sheet = made(tmp_path / "out" / "contact_sheet.png")
    tile = np.array(
        Image.open(tmp_path / "out" / "train" / "a.png")
        .convert("RGB")
        .resize((160, 160), Image.Resampling.BOX)
    )
    assert (sheet[16:176, :160] == tile).all()


def test_two_workers_make_the_same(source, tmp_path):
    for i in range(12):
        picture(source / f"{i}.png", seed=i)
    (source / "broken.png").write_bytes(b"no")
    assert call(source, tmp_path / "one", "--image-size", 16) == 1
    assert call(source, tmp_path / "two", "--image-size", 16, "--workers", 2) == 1
    assert everything(tmp_path / "one") == everything(tmp_path / "two")


def test_command_line(source, tmp_path):
    """The real program: help with an example, exit code 2 in one line."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, SCRIPT, "--help"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert (
        done.returncode == 0
        and "python scripts/prepare_super_resolution_dataset.py --train-dir" in done.stdout
    )


@pytest.mark.slow
def test_thousand_images_use_both_cores_in_constant_memory(source, tmp_path):
    """In wall time, so it means something only on a machine that does nothing else; the memory is the largest process's."""
    y, x = np.mgrid[:512, :512]
    generator = random.Random(0)
    for i in range(1000):
        wave = (
            np.sin(x / generator.uniform(5, 50)) * np.cos(y / generator.uniform(5, 50)) * 30000
            + 32768
        )
        Image.fromarray(wave.astype(np.uint16)).save(source / f"{i:04d}.png", compress_level=1)
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(source.iterdir())[:100]:
        (few / path.name).symlink_to(path)
    watch = """
import resource, subprocess, sys, time
begun = time.monotonic()
code = subprocess.run(sys.argv[1:]).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(time.monotonic() - begun, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
sys.exit(code)
"""
    wall, memory = {}, {}
    for folder, workers in ((few, 1), (source, 1), (source, 2)):
        out = tmp_path / f"out{workers}-{folder.name}"
        command = [
            sys.executable,
            SCRIPT,
            "--train-dir",
            folder,
            "--output-root",
            out,
            "--workers",
            str(workers),
        ]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", watch, *command], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr
        n = len(rows(out))
        wall[n, workers], processor, memory[n, workers] = map(float, done.stdout.split()[-3:])
        print(
            f"{n} images, {workers} workers: {wall[n, workers]:.1f} s, processor {processor:.1f} s, {memory[n, workers]:.0f} MiB"
        )
    assert (
        memory[1000, 1] <= memory[100, 1] + 20
    )  # MiB: the list of a thousand files, and the allocator's whims
    assert wall[1000, 1] / wall[1000, 2] >= 1.6
