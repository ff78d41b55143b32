"""Manifests: what the three formats give, what `check` finds, and a million rows."""

import hashlib
import json
import os
import subprocess
import sys
import textwrap

import pytest
from manifests import HEADER, refused, write

from data.manifest import COLUMNS, Row, check, identify, read


def test_three_formats_say_the_same(tmp_path):
    csv = write(
        tmp_path, f"{HEADER}\na/1.png,one,p1,train,,-1000:400,2,{'0' * 64}\nv.nii.gz,,,,7,,,\n"
    )
    objects = [
        dict(
            path="a/1.png",
            image_id="one",
            subject="p1",
            split="train",
            window="-1000:400",
            label=2,
            sha256="0" * 64,
        ),
        dict(path="v.nii.gz", slice=7),
    ]
    jsonl = write(tmp_path, "".join(json.dumps(o) + "\n" for o in objects), "m.jsonl")
    first = Row(f"{tmp_path}/a/1.png", "one", "p1", "train", None, (-1000.0, 400.0), 2, "0" * 64, 2)
    second = Row(f"{tmp_path}/v.nii.gz", "v-0007", slice=7, line=3)
    assert list(read(csv)) == [first, second]
    assert list(read(jsonl)) == [first._replace(line=1), second._replace(line=2)]
    text = write(tmp_path, "a/1.png\nv.nii.gz\n", "m.txt")
    assert [row.path for row in read(text)] == [first.path, second.path]
    assert [row.image_id for row in read(text)] == ["a__1", "v"]


def test_full_and_partial_columns_in_any_order(tmp_path):
    full = write(
        tmp_path,
        "".join(json.dumps(dict.fromkeys(COLUMNS) | {"path": f"{i}.png"}) + "\n" for i in range(3)),
        "m.jsonl",
    )
    part = write(tmp_path, "label, path\n" + "".join(f"{i},{i}.png\n" for i in range(3)))
    assert [row.image_id for row in read(full)] == ["0", "1", "2"]
    assert [(row.label, row.image_id) for row in read(part)] == [(0, "0"), (1, "1"), (2, "2")]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("name", ["m.csv", "m.txt", "m.jsonl"])
def test_line_ends_marks_blank_lines_and_spaces(tmp_path, end, mark, name):
    lines = {
        "m.csv": ["path,label", " a b.png ,1", "", '"c, d.png",2', " , "[:0], "é.png,-1"],
        "m.txt": ["", " a b.png ", "   ", "c, d.png", "", "é.png"],
        "m.jsonl": [
            "",
            '{"path": " a b.png "}',
            "",
            '{"path": "c, d.png"}',
            " ",
            '{"path": "\\u00e9.png"}',
        ],
    }[name]
    for tail in ("", end):
        rows = list(read(write(tmp_path, mark + end.join(lines) + tail, name)))
        assert [os.path.basename(row.path) for row in rows] == ["a b.png", "c, d.png", "é.png"]
        assert [row.line for row in rows] == [2, 4, 6]


def test_absolute_paths_are_taken_and_ids_do_not_depend_on_the_mount(tmp_path):
    (tmp_path / "here").mkdir()
    inside, outside = f"{tmp_path}/here/train/1.png", "/elsewhere/1.png"
    rows = list(
        read(write(tmp_path / "here", f"{inside}\n{outside}\ntrain/2.png\n", "train_images.txt"))
    )
    assert [row.path for row in rows] == [inside, outside, f"{tmp_path}/here/train/2.png"]
    assert [row.image_id for row in rows] == ["train__1", "elsewhere__1", "train__2"]


def test_relative_manifest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "a.png\n", "m.txt")
    assert next(read("m.txt")).path == "a.png"


@pytest.mark.parametrize(
    "path, index, identity",
    [
        ("1.png", None, "1"),
        ("a/b.nii.gz", 3, "a__b-0003"),
        (".hidden", None, "hidden"),
        ("/x/y.dcm", None, "x__y"),
        ("a.b/c", 0, "a.b__c-0000"),
    ],
)
def test_identify(path, index, identity):
    assert identify(path, index) == identity


def test_spaces_about_cells_are_no_part_of_them(tmp_path):
    for name, content in (
        ("m.csv", 'path,subject\n" a b.png"," p"\n"c d.png",p\n'),
        ("n.csv", "path,subject\na b.png , p\nc d.png,p \n"),
        (
            "m.jsonl",
            '{"path": " a b.png ", "subject": " p"}\n{"path": "c d.png", "subject": "p "}\n',
        ),
        ("n.jsonl", '{"path":"a b.png","subject":"p "}\n{"path":"c d.png ","subject":"p"}\n'),
    ):
        found = [
            (os.path.basename(row.path), row.subject)
            for row in read(write(tmp_path, content, name))
        ]
        assert found == [("a b.png", "p"), ("c d.png", "p")]
    assert [
        os.path.basename(row.path)
        for row in read(write(tmp_path, "a b.png\n c d.png\ne.png \n", "m.txt"))
    ] == [
        "a b.png",
        "c d.png",
        "e.png",
    ]


def test_rows_before_a_bad_one_are_given(tmp_path):
    rows = read(write(tmp_path, "path\na.png\n../b.png\n"))
    assert next(rows).image_id == "a"
    with pytest.raises(ValueError, match="row 3"):
        next(rows)


@pytest.fixture
def good(tmp_path):
    rows = []
    for i in range(6):
        (tmp_path / f"{i}.png").write_bytes(bytes([i]))
        rows.append(
            f"{i}.png,,p{i // 2},{'train' if i < 4 else 'test'},,,,{hashlib.sha256(bytes([i])).hexdigest()}"
        )
    return tmp_path, rows


def test_check_counts_good_rows(good):
    tmp_path, rows = good
    path = write(tmp_path, "\n".join([HEADER, *rows]))
    assert check(path) == check(path, checksums=True) == 6


@pytest.mark.parametrize(
    "extra, reason",
    [
        ("0.png,other,,,,,,", "0.png' is in row 2 already"),
        ("./1.png,0,,,,,,", "image_id '0' is in row 2 already"),
        ("nothing.png,,,,,,,", "there is no file"),
        ("loop.png,,,,,,,", "there is no file"),
        ("1.png,x,p2,train,,,,", "subject 'p2' is in two splits, in 'test' (row 6) and in 'train'"),
    ],
)
def test_check_finds(good, extra, reason):
    tmp_path, rows = good
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    if extra.startswith("1.png"):
        rows = [row for row in rows if not row.startswith("1.png")]
        rows.insert(1, "0.png,y,p9,,1,,,")
    refused(write(tmp_path, "\n".join([HEADER, *rows, extra])), 8, reason, check)


def test_check_finds_a_changed_file(good):
    tmp_path, rows = good
    path = write(tmp_path, "\n".join([HEADER, *rows]))
    (tmp_path / "3.png").write_bytes(b"else")
    assert check(path) == 6
    refused(path, 5, "has changed", lambda path: check(path, checksums=True))


def test_slices_of_a_volume_are_different_images(good):
    tmp_path, _ = good
    assert check(write(tmp_path, "path,slice\n0.png,0\n0.png,1\n")) == 2
    refused(write(tmp_path, "path,slice\n0.png,1\n0.png,1\n"), 3, "slice 1' is in row 2", check)


@pytest.mark.slow
@pytest.mark.parametrize(
    "suffix, what, seconds, mebibytes",
    [
        ("csv", "read", 6, 60),
        ("txt", "read", 6, 60),
        ("jsonl", "read", 6, 60),
        ("csv", "check", 15, 200),
        ("jsonl", "check", 15, 200),
    ],
)
def test_a_million_rows(tmp_path, suffix, what, seconds, mebibytes):
    """In processor time, because tests share the machine, and in a fresh process, because memory peaks are not given back."""
    path = tmp_path / f"m.{suffix}"
    with path.open("w") as stream:
        stream.write(f"{HEADER}\n" if suffix == "csv" else "")
        for i in range(1_000_000):
            cells = [
                f"v/{i % 1000}.png",
                f"i{i}",
                f"p{i}",
                "train",
                i // 1000,
                "-1000:400",
                1,
                "0" * 64,
            ]
            whole = {
                "csv": ",".join(map(str, cells)),
                "jsonl": json.dumps(dict(zip(COLUMNS, cells))),
                "txt": f"v/{i % 1000}.png",
            }
            stream.write(whole[suffix] + "\n")
    (tmp_path / "v").mkdir()
    for i in range(1000):
        (tmp_path / f"v/{i}.png").touch()
    program = f"""
        import time
        from data import manifest
        start = time.process_time()
        n = manifest.check({str(path)!r}) if {what == "check"} else sum(1 for row in manifest.read({str(path)!r}))
        peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
        print(n, time.process_time() - start, int(peak) / 1024)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True
    )
    n, took, peak = map(float, done.stdout.split())
    print(f"{suffix} {what}: {took:.2f} s of processor time, {peak:.0f} MiB")
    assert n == 1_000_000 and took <= seconds and peak <= mebibytes
