"""Whatever the bytes of a manifest are, there are rows or one line, and never anything else."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from manifests import HEADER, write

from data.manifest import COLUMNS, read

cell = st.text(max_size=12) | st.sampled_from(
    ["a.png", "..", "/x", "1", "-1", "0:1", '"', ",", "\n", "\ufeff", "é", " "]
)
value = (
    cell
    | st.integers()
    | st.floats()
    | st.booleans()
    | st.none()
    | st.lists(st.integers(), max_size=2)
)
lines = {
    ".csv": st.lists(st.lists(cell, max_size=9).map(",".join), max_size=5).map(
        lambda rows: "\n".join([HEADER, *rows])
    ),
    ".jsonl": st.lists(
        st.dictionaries(st.sampled_from([*COLUMNS, "other"]), value, max_size=8).map(json.dumps)
        | cell,
        max_size=5,
    ).map("\n".join),
    ".txt": st.lists(cell, max_size=5).map("\n".join),
}
contents = st.sampled_from(sorted(lines)).flatmap(
    lambda suffix: st.tuples(
        st.just(suffix),
        lines[suffix].map(lambda text: text.encode("utf-8", "surrogatepass"))
        | st.binary(max_size=80),
    )
)


def read_or_refuse(tmp_path, suffix, content):
    path = write(tmp_path, content, f"m{suffix}")
    try:
        for row in read(path):
            assert (
                row.path
                and row.path.isprintable()
                and ".." not in row.path[len(str(tmp_path)) :].split("/")
            )
            assert (
                row.image_id
                and "/" not in row.image_id
                and row.image_id.isprintable()
                and len(row.image_id.encode()) <= 200
            )
            assert all(isinstance(text, str) for text in (row.subject, row.split, row.sha256))
            assert row.slice is None or (type(row.slice) is int and row.slice >= 0)
            assert type(row.label) is int and row.label >= -1
            assert row.window is None or row.window[0] < row.window[1]
    except ValueError as error:
        assert str(error).startswith(f"{path}: row ") and len(str(error).splitlines()) == 1


likely = st.fixed_dictionaries(
    {
        "path": st.sampled_from(
            ["a.png", "b c.png", "é.png", "\U0001f600.png", " d.png", "..", "e\\f.png", '".png']
        )
    },
    optional={name: cell | st.none() for name in ("image_id", "subject", "split", "sha256")}
    | {
        name: st.integers(-2, 9) | st.none() | st.booleans() | st.just(1.0)
        for name in ("slice", "label")
    }
    | {"window": st.sampled_from(["0:1", "1:0", "", None, 3])},
)
alike = st.lists(likely, min_size=1, max_size=5) | st.tuples(likely, st.integers(1, 5)).map(
    lambda drawn: [drawn[0]] * drawn[1]
)
style = st.sampled_from([(", ", ": "), (",", ":"), (" , ", " : ")])
objects = st.tuples(
    alike,
    style,
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 400), st.sampled_from("cje")), max_size=2),
)


def lines_alone(tmp_path, drawn):
    """A file gives what each of its lines gives by itself, with a space after it: that is not read by the pattern of many."""
    records, separators, ascii_only, cuts = drawn
    content = "\n".join(
        json.dumps(record, separators=separators, ensure_ascii=ascii_only) for record in records
    )
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


unhurried = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


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
