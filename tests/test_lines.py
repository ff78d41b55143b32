"""The lines of a file of records by their images: the last of each, in any order, without taking two images for one."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from solvers.run import volumes
from solvers.run.committed import RECORDS, in_order, listed, records_in, standing
from solvers.run.lines import Lines


class Clash(str):
    """A name whose hash is that of another."""

    def __hash__(self) -> int:
        return hash(str(self)[0])

    __eq__ = str.__eq__


def written(path: Path, names: list[str]) -> list[bytes]:
    """A line for each name, that says which it is; "" makes a bad one."""
    made = [
        json.dumps({"image_id": name, "status": "failed: no", "at": i}).encode() + b"\n"
        if name
        else b"{\n"
        for i, name in enumerate(names)
    ]
    path.write_bytes(b"".join(made) + b'{"image_id": "torn')
    return made


def last_lines(names: list[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for number, name in enumerate(names):
        found.pop(name, None)
        found |= {name: number} if name else {}
    return found


@pytest.mark.parametrize("clash", [False, True], ids=["hashes", "hashes that clash"])
def test_what_stands_last_is_found_and_ordered(tmp_path, clash):
    chance = random.Random(1)
    kind = Clash if clash else str
    names = [chance.choice(["", *(f"{a}{b}" for a in "abcd" for b in range(6))]) for _ in range(60)]
    made = written(tmp_path / RECORDS, names)

    def name_of(line: bytes) -> str:
        return kind(json.loads(line)["image_id"] if line != b"{\n" else "")

    found, wanted = Lines(tmp_path / RECORDS, name_of), last_lines(names)
    assert np.flatnonzero(found.counted).tolist() == sorted(wanted.values())
    asked = [kind(name) for name in ("b3", "nobody", "a0", "d5", "c2")]
    assert found.find(asked).tolist() == [wanted.get(str(name), -1) for name in asked]
    first = [wanted[str(name)] for name in asked if str(name) in wanted]
    rest = [number for number in sorted(wanted.values()) if number not in first]
    assert found.ordered(asked).tolist() == first + rest
    found.keep(found.ordered(asked))
    assert (tmp_path / RECORDS).read_bytes() == b"".join(made[n] for n in first + rest)


def test_a_file_that_is_as_it_should_be_is_not_written(tmp_path):
    made = written(tmp_path / RECORDS, ["a", "b", "c"])
    in_order(tmp_path / RECORDS, ["a", "b"])
    assert (tmp_path / RECORDS).read_bytes() == b"".join(made)  # without the torn line
    before = (tmp_path / RECORDS).stat().st_ino
    in_order(tmp_path / RECORDS, ["a", "b"])
    listed(tmp_path / RECORDS).keep([0, 1, 2])
    assert (tmp_path / RECORDS).stat().st_ino == before
    assert [record["at"] for record in records_in(tmp_path / RECORDS)] == [0, 1, 2]
    listed(tmp_path / RECORDS).keep([])
    assert (tmp_path / RECORDS).read_bytes() == b""


def test_no_file_has_no_lines(tmp_path):
    found = listed(tmp_path / RECORDS)
    assert len(found.counted) == 0 and found.find(["a"]).tolist() == [-1]
    in_order(tmp_path / RECORDS, ["a"])
    assert not (tmp_path / RECORDS).exists() and list(records_in(tmp_path / RECORDS)) == []
    assert len(standing(tmp_path, {}).kept) == 0


def test_lines_take_few_bytes(tmp_path):
    """12 each while they are read; hashes, lengths and places are 24 then, and a record's text is 50."""
    written(tmp_path / RECORDS, [f"i{n}" for n in range(1000)])
    found = standing(tmp_path, {})
    held = [value for value in vars(found.lines).values() if isinstance(value, np.ndarray)]
    assert sum(one.nbytes for one in held) <= 40 * 1000 and not found.lines.several


def test_records_of_volumes_are_replaced_a_few_volumes_at_a_time(tmp_path, monkeypatch):
    """With lines of others between them, and a file that changes under the reading."""
    names = ["v0", "x", "w1", "v1", "w0", "u0"]
    written(tmp_path / RECORDS, names)
    members = {"v": ["v0", "v1"], "u": ["u0", "u1"], "w": ["w0", "w1"]}

    class Folder:
        folder, replaced = tmp_path, list[set[str]]()

        def replace(self, changed):
            self.replaced.append(set(changed))
            (tmp_path / "new").write_bytes(b"other\n")
            (tmp_path / "new").replace(tmp_path / RECORDS)

        def records(self):
            return iter(())

    monkeypatch.setattr(volumes, "MANY", 2)
    seen = []

    def assemble(results, name, slices, scans, keep):
        seen.append((name, [record["at"] for record in slices]))
        return {record["image_id"]: record for record in slices}

    class Read:
        source = True

    monkeypatch.setattr(volumes, "_assemble", assemble)
    monkeypatch.setattr(
        volumes, "complete", lambda *given: (
            (name, [{**record, "status": "ok", "files": {}} for record in slices])
            for name, slices in COMPLETE(*given)
        ),
    )  # fmt: skip
    folder = Folder()
    assert volumes.reassemble(folder, members, lambda _: Read()) == []
    assert seen == [("v", [0, 3]), ("w", [4, 2])]
    assert folder.replaced == [{"v0", "v1"}, {"w0", "w1"}]


COMPLETE = volumes.complete
