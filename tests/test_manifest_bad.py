"""Bad manifests: every one is refused in one line with file and row."""

import json

import pytest
from manifests import HEADER, refused, write

from data.manifest import COLUMNS


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
    if line.startswith(
        '{"path": "a.png", "'
    ):  # the same where all rows have all keys, which goes another way
        whole = (
            json.dumps(full | {"path": "fine.png"})
            + "\n"
            + json.dumps(full | json.loads(line))
            + "\n"
        )
        if "subjct" not in line:
            refused(write(tmp_path, whole, "m.jsonl"), 2, reason)


def whole(**given):
    return json.dumps(dict.fromkeys(COLUMNS) | given)


@pytest.mark.parametrize(
    "content, row",
    [
        (
            whole(path="a.png")[:-1] + "\n" + whole(path="b.png")[1:] + "," + whole(path="c.png"),
            1,
        ),  # an object over two lines
        (whole(path="a.png") + "," + whole(path="b.png").replace(", ", "\n", 1), 1),
        (
            whole(path="a.png").replace("a.png", "a\n.png") + "," + whole(path="b.png"),
            1,
        ),  # a text over two lines
        (
            whole(path="a.png")
            + "\n"
            + whole(path="b.png", sha256=[{}, {}]).replace("{}, {}", "{}\n{}"),
            2,
        ),
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
    refused(
        write(tmp_path, content + "\n", "m.jsonl"),
        row,
        "not JSON" if content[0] == "{" else "is not",
    )


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
