"""Manifests: what the three formats give, what `check` finds, and that every bad one is refused in one line with file and row."""

import hashlib
import json
import os
import subprocess
import sys
import textwrap

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.manifest import COLUMNS, Row, check, identify, read
from data.manifest_lines import _BLOCK

HEADER = ",".join(COLUMNS)


def write(tmp_path, content, name="m.csv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refused(path, row, reason, how=lambda path: list(read(path))):
    with pytest.raises(ValueError) as caught:
        how(path)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(f"{path}: ") and len(message) < 600
    assert reason in message, message
    assert row is None or f"row {row}:" in message, message


def test_three_formats_say_the_same(tmp_path):
    csv = write(tmp_path, f"{HEADER}\na/1.png,one,p1,train,,-1000:400,2,{'0' * 64}\nv.nii.gz,,,,7,,,\n")
    objects = [
        dict(path="a/1.png", image_id="one", subject="p1", split="train", window="-1000:400", label=2, sha256="0" * 64),
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
    full = write(tmp_path, "".join(json.dumps(dict.fromkeys(COLUMNS) | {"path": f"{i}.png"}) + "\n" for i in range(3)), "m.jsonl")
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
        "m.jsonl": ["", '{"path": " a b.png "}', "", '{"path": "c, d.png"}', " ", '{"path": "\\u00e9.png"}'],
    }[name]
    for tail in ("", end):
        rows = list(read(write(tmp_path, mark + end.join(lines) + tail, name)))
        assert [os.path.basename(row.path) for row in rows] == ["a b.png", "c, d.png", "é.png"]
        assert [row.line for row in rows] == [2, 4, 6]


def test_absolute_paths_are_taken_and_ids_do_not_depend_on_the_mount(tmp_path):
    (tmp_path / "here").mkdir()
    inside, outside = f"{tmp_path}/here/train/1.png", "/elsewhere/1.png"
    rows = list(read(write(tmp_path / "here", f"{inside}\n{outside}\ntrain/2.png\n", "train_images.txt")))
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


@pytest.mark.parametrize(
    "cells, reason",
    [
        ("../a.png,,,,,,,", "climbs out"),
        ("a/../../b.png,,,,,,,", "climbs out"),
        (",,,,,,,", "the path is empty"),
        ("a.png,x/y,,,,,,", "no safe file name"),
        ("a.png,.x,,,,,,", "no safe file name"),
        (f"a.png,{'x' * 201},,,,,,", "no safe file name"),
        ("a.png,,,,-1,,,", "not a whole number"),
        ("a.png,,,,1.5,,,", "not a whole number"),
        ("a.png,,,,99999999999,,,", "not a whole number"),
        ("a.png,,,,,,two,", "not a whole number"),
        ("a.png,,,,,,-2,", "not a whole number"),
        ("a.png,,,,,400:-1000,,", "low < high"),
        ("a.png,,,,,1,,", "low < high"),
        ("a.png,,,,,0:inf,,", "low < high"),
        ("a.png,,,,,nan:1,,", "low < high"),
        ("a\tb.png,,,,,,,", "not printable"),
        ("a\x00b.png,,,,,,,", "not printable"),
        ("a.png,,p\x1b[31m,,,,,", "not printable"),
        ("a.png,,", "has 3 cells where the header has 8"),
        ('"a.png,,,,,,,', "unexpected end of data"),
        (f"{'a/' * 2100}a.png,,,,,,,", "longer than any file system"),
    ],
)
def test_bad_rows(tmp_path, cells, reason):
    path = write(tmp_path, f"{HEADER}\nfine.png,,,,,,,\n{cells}\nfine2.png,,,,,,,\n")
    refused(path, 3, reason)


@pytest.mark.parametrize(
    "line, reason",
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ('{"path": "a.png", "subjct": "x"}', "did you mean 'subject'"),
        ('{"path": 5}', "not printable text"),
        ('{"path": "a.png", "subject": 5}', "not printable text"),
        ('{"path": "a.png", "window": [0, 1]}', "wrong type"),
        ('{"path": "a.png", "window": 0}', "wrong type"),
        ('{"path": "a.png", "label": true}', "not a whole number"),
        ('{"path": "a.png", "label": 1.0}', "not a whole number"),
        ('{"path": "\\ud800.png"}', "not printable text"),
        ('{"path": "\\u002e\\u002e/a.png"}', "climbs out"),
        ('{"label": 1}', "empty"),
        ('{"path": "a.png"},{"path": "b.png"}', "not JSON"),
        ("[" * 60000, "not JSON"),
    ],
)
def test_bad_objects(tmp_path, line, reason):
    refused(write(tmp_path, f'{{"path": "fine.png"}}\n{line}\n', "m.jsonl"), 2, reason)
    full = {name: None for name in COLUMNS}
    if line.startswith('{"path": "a.png", "'):  # the same where all rows have all keys, which goes another way
        whole = json.dumps(full | {"path": "fine.png"}) + "\n" + json.dumps(full | json.loads(line)) + "\n"
        if "subjct" not in line:
            refused(write(tmp_path, whole, "m.jsonl"), 2, reason)


def whole(**given):
    return json.dumps(dict.fromkeys(COLUMNS) | given)


@pytest.mark.parametrize(
    "content, row",
    [
        (whole(path="a.png")[:-1] + "\n" + whole(path="b.png")[1:] + "," + whole(path="c.png"), 1),  # an object over two lines
        (whole(path="a.png") + "," + whole(path="b.png").replace(", ", "\n", 1), 1),
        (whole(path="a.png").replace("a.png", "a\n.png") + "," + whole(path="b.png"), 1),  # a text over two lines
        (whole(path="a.png") + "\n" + whole(path="b.png", sha256=[{}, {}]).replace("{}, {}", "{}\n{}"), 2),
        (whole(path="a.png") + "\n" + whole(path="b.png") + "," + whole(path="c.png"), 2),
        ("[" + whole(path="a.png") + "\n" + whole(path="b.png") + "]", 1),
        (whole(path="a.png") + "\n" + whole(path="b.png") + " x", 2),
        (whole(path="a.png") + "\n" + whole(path="b.png", label=1).replace(": 1,", ": 01,"), 2),
        (whole(path="a.png") + "\n" + whole(path="b.png").replace("b.png", "b\\x.png"), 2),
        (whole(path="a.png") + "\n" + whole(path="b.png").replace("{", "\\u007b"), 2),
    ],
)
def test_lines_that_are_no_objects_by_themselves(tmp_path, content, row):
    """Joined with commas, as many as there are lines, most of these would pass."""
    refused(write(tmp_path, content + "\n", "m.jsonl"), row, "not JSON" if content[0] == "{" else "is not")


def test_spaces_about_cells_are_no_part_of_them(tmp_path):
    for name, content in (
        ("m.csv", 'path,subject\n" a b.png"," p"\n"c d.png",p\n'),
        ("n.csv", "path,subject\na b.png , p\nc d.png,p \n"),
        ("m.jsonl", '{"path": " a b.png ", "subject": " p"}\n{"path": "c d.png", "subject": "p "}\n'),
        ("n.jsonl", '{"path":"a b.png","subject":"p "}\n{"path":"c d.png ","subject":"p"}\n'),
    ):
        found = [(os.path.basename(row.path), row.subject) for row in read(write(tmp_path, content, name))]
        assert found == [("a b.png", "p"), ("c d.png", "p")]
    assert [os.path.basename(row.path) for row in read(write(tmp_path, "a b.png\n c d.png\ne.png \n", "m.txt"))] == [
        "a b.png",
        "c d.png",
        "e.png",
    ]


@pytest.mark.parametrize(
    "content, row, reason",
    [
        (b"", 1, "no header"),
        (b"a.png\nb.png\n", 1, "unknown column 'a.png'"),
        (b"path,path\n", 1, "no column twice"),
        (b"label\n1\n", 1, "must name 'path'"),
        (b"path;label\na.png;1\n", 1, "unknown column 'path;label'"),
        (b"path\nok.png\n\xff\xfe.png\n", 3, "not UTF-8"),
        ("path\nok.png\n".encode("utf-16"), 1, "not UTF-8"),
        (b"path\n" + b"a" * 10_000_000, 2, "longer than 65536 bytes"),
        (b"path\n" + b"a" * 10_000_000 + b"\nb.png\n", 2, "longer than 65536 bytes"),
        (b'path\nok.png\n"a\nb.png"\n', 3, "quoted cell runs over"),
    ],
)
def test_bad_files(tmp_path, content, row, reason):
    refused(write(tmp_path, content), row, reason)


def test_files_that_cannot_be_opened(tmp_path):
    refused(tmp_path / "none.csv", None, "No such file")
    refused(tmp_path, None, "Is a directory")
    loop = tmp_path / "loop.csv"
    loop.symlink_to(loop)
    refused(loop, None, "symbolic links")


def test_rows_before_a_bad_one_are_given(tmp_path):
    rows = read(write(tmp_path, "path\na.png\n../b.png\n"))
    assert next(rows).image_id == "a"
    with pytest.raises(ValueError, match="row 3"):
        next(rows)


def test_rows_across_blocks(tmp_path):
    n = 3 * _BLOCK // 20
    path = write(tmp_path, "path,label\n" + "".join(f"é{i:07d}.png,{i}\n" for i in range(n)))
    assert path.stat().st_size > 2 * _BLOCK
    assert all(row.label == i == row.line - 2 and row.path.endswith(f"é{i:07d}.png") for i, row in enumerate(read(path)))


# ---- check


@pytest.fixture
def good(tmp_path):
    rows = []
    for i in range(6):
        (tmp_path / f"{i}.png").write_bytes(bytes([i]))
        rows.append(f"{i}.png,,p{i // 2},{'train' if i < 4 else 'test'},,,,{hashlib.sha256(bytes([i])).hexdigest()}")
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


# ---- properties: whatever the bytes are, there are rows or one line, and never anything else

cell = st.text(max_size=12) | st.sampled_from(["a.png", "..", "/x", "1", "-1", "0:1", '"', ",", "\n", "\ufeff", "é", " "])
value = cell | st.integers() | st.floats() | st.booleans() | st.none() | st.lists(st.integers(), max_size=2)
lines = {
    ".csv": st.lists(st.lists(cell, max_size=9).map(",".join), max_size=5).map(lambda rows: "\n".join([HEADER, *rows])),
    ".jsonl": st.lists(
        st.dictionaries(st.sampled_from([*COLUMNS, "other"]), value, max_size=8).map(json.dumps) | cell, max_size=5
    ).map("\n".join),
    ".txt": st.lists(cell, max_size=5).map("\n".join),
}
contents = st.sampled_from(sorted(lines)).flatmap(
    lambda suffix: st.tuples(
        st.just(suffix), lines[suffix].map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=80)
    )
)


def read_or_refuse(tmp_path, suffix, content):
    path = write(tmp_path, content, f"m{suffix}")
    try:
        for row in read(path):
            assert row.path and row.path.isprintable() and ".." not in row.path[len(str(tmp_path)) :].split("/")
            assert row.image_id and "/" not in row.image_id and row.image_id.isprintable() and len(row.image_id.encode()) <= 200
            assert all(isinstance(text, str) for text in (row.subject, row.split, row.sha256))
            assert row.slice is None or (type(row.slice) is int and row.slice >= 0)
            assert type(row.label) is int and row.label >= -1
            assert row.window is None or row.window[0] < row.window[1]
    except ValueError as error:
        assert str(error).startswith(f"{path}: row ") and len(str(error).splitlines()) == 1


likely = st.fixed_dictionaries(
    {"path": st.sampled_from(["a.png", "b c.png", "é.png", "\U0001f600.png", " d.png", "..", "e\\f.png", '".png'])},
    optional={name: cell | st.none() for name in ("image_id", "subject", "split", "sha256")}
    | {name: st.integers(-2, 9) | st.none() | st.booleans() | st.just(1.0) for name in ("slice", "label")}
    | {"window": st.sampled_from(["0:1", "1:0", "", None, 3])},
)
alike = st.lists(likely, min_size=1, max_size=5) | st.tuples(likely, st.integers(1, 5)).map(lambda drawn: [drawn[0]] * drawn[1])
style = st.sampled_from([(", ", ": "), (",", ":"), (" , ", " : ")])
objects = st.tuples(alike, style, st.booleans(), st.lists(st.tuples(st.integers(0, 400), st.sampled_from("cje")), max_size=2))


def lines_alone(tmp_path, drawn):
    """A file gives what each of its lines gives by itself, with a space after it: that is not read by the pattern of many."""
    records, separators, ascii_only, cuts = drawn
    content = "\n".join(json.dumps(record, separators=separators, ensure_ascii=ascii_only) for record in records)
    for place, how in cuts:  # cut a line, join two with a comma, or escape a character
        at = place % len(content)
        if how == "j":
            content = content.replace("\n", ",", 1)
        else:
            middle = "\n" + content[at] if how == "c" else f"\\u{min(ord(content[at]), 0xFFFF):04x}"
            content = content[:at] + middle + content[at + 1 :]
    expected, bad = [], 0
    for line, text in enumerate(content.split("\n"), 1):
        rows, failed = outcome(write(tmp_path, f"{text} ", "m.jsonl"))
        expected += [row._replace(line=line) for row in rows]
        if failed:
            bad = line
            break
    for end in ("", "\n"):  # the last line without an end comes by itself
        assert outcome(write(tmp_path, content + end, "m.jsonl")) == (expected, bad)


def outcome(path):
    """(rows before the bad one, its line or 0)."""
    rows = []
    try:
        for row in read(path):
            rows.append(row)
    except ValueError as error:
        return rows, int(str(error).removeprefix(f"{path}: row ").partition(":")[0])
    return rows, 0


unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@given(contents)
@settings(unhurried, max_examples=100)
def test_any_bytes(tmp_path, drawn):
    read_or_refuse(tmp_path, *drawn)


@pytest.mark.slow
@given(contents)
@settings(unhurried, max_examples=2000)
def test_any_bytes_2000_times(tmp_path, drawn):
    read_or_refuse(tmp_path, *drawn)


@given(objects)
@settings(unhurried, max_examples=100)
def test_any_objects(tmp_path, drawn):
    lines_alone(tmp_path, drawn)


@pytest.mark.slow
@given(objects)
@settings(unhurried, max_examples=2000)
def test_any_objects_2000_times(tmp_path, drawn):
    lines_alone(tmp_path, drawn)


@pytest.mark.slow
@pytest.mark.parametrize(
    "suffix, what, seconds, mebibytes",
    [
        ("csv", "read", 3, 50),
        ("txt", "read", 3, 50),
        ("jsonl", "read", 3, 50),
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
            cells = [f"v/{i % 1000}.png", f"i{i}", f"p{i}", "train", i // 1000, "-1000:400", 1, "0" * 64]
            whole = {"csv": ",".join(map(str, cells)), "jsonl": json.dumps(dict(zip(COLUMNS, cells))), "txt": f"v/{i % 1000}.png"}
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
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)
    n, took, peak = map(float, done.stdout.split())
    print(f"{suffix} {what}: {took:.2f} s of processor time, {peak:.0f} MiB")
    assert n == 1_000_000 and took <= seconds and peak <= mebibytes
