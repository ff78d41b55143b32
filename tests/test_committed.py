"""Earlier results are looked at before they are kept: rows that changed, files gone or damaged, lines that are no records."""

import json
from pathlib import Path

import pytest
import tiny

import sample


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    where = tiny.world(tmp_path_factory.mktemp("world"))
    volume = [(i + 1) * 300 for i in range(3)]
    import nibabel
    import numpy as np

    y, x = np.mgrid[0:16, 0:16]
    array = np.stack(
        [np.sin(x / 3 + i) * np.cos(y / 4) * level + level for i, level in enumerate(volume)], 2
    )
    nibabel.save(nibabel.Nifti1Image(array.astype(np.int16), np.eye(4)), where / "scans/volume.nii")
    return where


def listed(world: Path, folder: Path, *rows: str) -> Path:
    """A manifest of these rows; "" leaves the first two as they are."""
    path = folder / "rows.csv"
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        "path,image_id,slice,window\n" + "".join(f"{world}/scans/{row}\n" for row in rows)
    )
    return path


def run(world: Path, folder: Path, *more: str) -> int:
    named = [
        "--task",
        f"{world}/sr.yaml",
        "--solver",
        "baseline",
        "--model",
        f"{world}/pixel",
        "--accelerator",
        "cpu",
    ]
    return sample.main(
        [
            *named,
            "--manifest",
            str(folder / "rows.csv"),
            "--save-dir",
            str(folder / "out"),
            "--batch-size",
            "1",
            *more,
        ]
    )


def stamps(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in (folder / "out/recon").iterdir()}


ROWS = ["scan0.png,a,,", "volume.nii,b,1,", "volume.nii,c,2,0:2000"]


def test_a_row_that_means_another_slice_or_window_is_restored_again(world, tmp_path, capsys):
    assert run(world, listed(world, tmp_path, *ROWS).parent) == 0
    before, images = stamps(tmp_path), tiny.restored(tmp_path / "out")
    record = tiny.records(tmp_path / "out")["c"]
    assert record["row"] == {"slice": 2, "window": [0, 2000]} and record["contract"] == [0, 2000]
    assert len(record["input_sha256"]) == 64 and record["config"]
    listed(world, tmp_path, ROWS[0], "volume.nii,b,0,", "volume.nii,c,2,0:500")
    capsys.readouterr()
    assert run(world, tmp_path) == 0
    said = capsys.readouterr().out
    assert (
        "note: b: its slice is 0, not 1" in said
        and "note: c: its window is [0.0, 500.0], not [0" in said
    )
    after = tiny.restored(tmp_path / "out")
    changed = {name for name in after if after[name] != images[name]}
    assert changed == {name for name in after if name[0] in "bc"} and len(changed) == 2
    assert stamps(tmp_path)["a.png"] == before["a.png"] and len(tiny.records(tmp_path / "out")) == 3
    listed(world, tmp_path, *ROWS)
    assert run(world, tmp_path) == 0 and tiny.restored(tmp_path / "out") == images


def damage(path: Path, how: str) -> None:
    if how == "deleted":
        path.unlink()
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-7])
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


@pytest.mark.parametrize("kind", ["recon", "measurement", "panels"])
@pytest.mark.parametrize("how", ["deleted", "cut", "flipped"])
def test_files_that_are_gone_or_damaged_are_written_again(world, tmp_path, capsys, kind, how):
    """A flipped bit shows only in the digest, which --verify asks for."""
    assert run(world, listed(world, tmp_path, *ROWS[:2]).parent) == 0
    name = tiny.records(tmp_path / "out")["a"]["files"][kind]
    whole = (tmp_path / "out" / name).read_bytes()
    damage(tmp_path / "out" / name, how)
    capsys.readouterr()
    assert run(world, tmp_path) == 0
    if how == "flipped":
        assert (
            "note" not in capsys.readouterr().out
            and (tmp_path / "out" / name).read_bytes() != whole
        )
        assert run(world, tmp_path, "--verify") == 0
    assert f"note: a: its {name} " in capsys.readouterr().out
    assert (tmp_path / "out" / name).read_bytes() == whole and len(
        tiny.records(tmp_path / "out")
    ) == 2


LINES = {
    "is no JSON": b"{\n",
    "holds a list": b'["a"]\n',
    "has no image_id": b'{"status": "ok"}\n',
    "has no status": b'{"image_id": "a"}\n',
    "does not name its files": b'{"image_id": "a", "status": "ok", "files": {"recon": "../../a.png"}}\n',
    "does not say what was written": b'{"image_id": "a", "status": "ok", "files": {}, "written": [1]}\n',
}


@pytest.mark.parametrize("fault", LINES)
def test_bad_lines_are_named_and_set_aside_and_their_images_restored_again(
    world, tmp_path, capsys, fault
):
    assert run(world, listed(world, tmp_path, *ROWS[:2]).parent) == 0
    path, images = tmp_path / "out/records.jsonl", tiny.restored(tmp_path / "out")
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(LINES[fault] + second)  # in the place of the first image's
    capsys.readouterr()
    assert run(world, tmp_path) == 0
    assert f"note: {path}, line 1: {fault}" in capsys.readouterr().out
    assert (tmp_path / "out/records.rejected.jsonl").read_bytes() == LINES[fault]
    assert (
        set(tiny.records(tmp_path / "out")) == {"a", "b"}
        and tiny.restored(tmp_path / "out") == images
    )
    assert json.loads((tmp_path / "out/summary.json").read_text())["images"] == 2


def test_an_image_with_two_records_counts_once_and_as_the_last_says(world, tmp_path):
    assert run(world, listed(world, tmp_path, *ROWS[:2]).parent) == 0
    path = tmp_path / "out/records.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    early = {**lines[0], "psnr": 1.0, "written": {}}
    path.write_text("".join(json.dumps(line) + "\n" for line in (early, *lines, lines[1])))
    before = stamps(tmp_path)
    assert run(world, tmp_path) == 0 and stamps(tmp_path) == before
    assert tiny.records(tmp_path / "out")["a"]["psnr"] == lines[0]["psnr"]
    assert json.loads((tmp_path / "out/summary.json").read_text())["images"] == 2
