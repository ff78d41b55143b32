"""data/files.py: a file is there or not, a folder has one writer, a digest is what sha256sum says, YAML cannot hang a reader."""

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data.bounded_yaml import bound_yaml, read_yaml
from data.files import (
    Refusal,
    append,
    commit,
    commit_folder,
    digest,
    file_digest,
    json_lines,
    locked,
    nearest,
)

ROOT = Path(__file__).parents[1]
HOLD = """
import sys
from pathlib import Path
from data.files import locked
with locked(Path(sys.argv[1]), ""):
    print("held", flush=True)
    input()
"""
LAUGHS = "\n".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 'ha'}]" for i in range(9)
)


def test_a_file_that_cannot_be_finished_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    commit(path, "old")
    for name in ("fsync", "replace"):
        with monkeypatch.context() as broken, pytest.raises(Refusal, match="cannot be written"):
            broken.setattr(os, name, lambda *_: (_ for _ in ()).throw(OSError("full")))
            commit(path, b"new")
        assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]
    commit_folder(tmp_path / "b", {"x": b"1", "y": b"2"})
    with pytest.raises(Refusal, match="a new or empty folder is allowed"):
        commit_folder(tmp_path / "b", {"x": b"3"})
    assert (tmp_path / "b" / "x").read_bytes() == b"1" and sorted(os.listdir(tmp_path)) == [
        "a.txt",
        "b",
    ]


def test_a_folder_has_one_writer_in_this_process_and_among_others(tmp_path):
    with (
        locked(tmp_path / "run", ""),
        pytest.raises(Refusal, match="another run is writing here; wait"),
    ):
        with locked(tmp_path / "run", "wait"):
            pass
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "run"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    assert other.stdout.readline() == b"held\n"
    with (
        pytest.raises(Refusal, match="another preparation is writing here"),
        locked(tmp_path / "run", "wait", "preparation"),
    ):
        pass
    other.communicate(b"\n")
    with locked(tmp_path / "run", ""):
        pass


def test_digests_are_those_of_sha256sum(tmp_path):
    commit(tmp_path / "a", b"abc")
    assert (
        file_digest(tmp_path / "a")
        == digest(b"abc")
        == digest("abc")
        == hashlib.sha256(b"abc").hexdigest()
    )
    assert (
        digest("ab", "c") != digest("a", "bc")
        and digest("\udcff") == hashlib.sha256(b"\xff").hexdigest()
    )


def test_a_line_cut_short_is_no_record(tmp_path):
    append(tmp_path / "a", b'{"x": 1}\n')
    append(tmp_path / "a", b'{"x": 2')
    assert list(json_lines(tmp_path / "a")) == [{"x": 1}]


def test_hints():
    assert nearest("pth", ["path", "label"]) == "; did you mean 'path'?"
    assert nearest("x", ["path", "label"]) == "; allowed: label, path"
    assert nearest("x", map(str, range(50)), 2) == "; allowed: 0, 1, …"


@pytest.mark.parametrize(
    "text, reason",
    [
        ("[" * 16384, "nested deeper than 40"),
        ("- " * 5000, "nested deeper than 40"),
        ("{a: " * 5000, "nested deeper than 40"),
        ("[" + "a," * 200_000 + "]", "longer than 50000 tokens"),
        (LAUGHS, "its aliases stand for more than 50000"),
        ("a: &a [*a]", "contains itself"),
        ("a: [1", "line 1: "),
        ("a: \x07", "special characters are not allowed"),
    ],
)
def test_yaml_is_bounded_before_it_is_parsed(text, reason):
    start = time.process_time()
    with pytest.raises(Refusal, match=f"^m.yaml: .*{reason}"):
        bound_yaml(text, "m.yaml")
    assert time.process_time() - start < 5, "16 KB of [ took yaml.safe_load 36 s"


def test_yaml_of_unknown_origin():
    assert read_yaml("a: {b: [1, 2]}", "m.yaml") == {"a": {"b": [1, 2]}}
    for text, reason in (
        {
            "a: &x 1\nb: *x": "aliases are not allowed",
            "a: 2000-13-01": "month must be",
            "!!python/name:os.system": "tag",
        }
    ).items():
        with pytest.raises(Refusal, match=f"^m.yaml: .*{reason}"):
            read_yaml(text, "m.yaml")
