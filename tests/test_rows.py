"""Rows held as bytes: what went in comes out, in parts and by name, whatever hashes say."""

import random

import pytest

from data import rows as module
from data.manifest import Row
from data.rows import ById, Rows


@pytest.fixture
def many(monkeypatch) -> list[Row]:
    """More than one piece holds, of more folders than are held once, and every kind of content."""
    monkeypatch.setattr(module, "FOLDERS", 3)
    monkeypatch.setattr(module, "TOGETHER", 4)
    chance, found = random.Random(0), []
    for i in range(50):
        folder = chance.choice(["", "/", "a/", "b/ü/", "/c/", f"d{i}/"])
        window = chance.choice([None, (0.1, 1e300), (-5.0, 3.5)])
        found.append(
            Row(
                f"{folder}{i}.png", f"i{i}ß", chance.choice(["", "p1"]), "test",
                chance.choice([None, 0, 7, 2**31 - 1]), window, chance.choice([-1, 4]),
                "f" * 64, i + 1, chance.choice(["", "within-subject"]), chance.choice(["", "v"]),
            )
        )  # fmt: skip
    return found


def test_rows_come_out_as_they_went_in(many):
    held = Rows(iter(many))
    assert [*held] == many and [held[i] for i in range(-50, 50)] == many + many
    assert all(type(row) is Row and type(row.window) in (tuple, type(None)) for row in held)
    for part in (
        slice(3, 9),
        slice(40, None),
        slice(None, 5),
        slice(1, 30, 3),
        slice(9, 3),
        slice(None, None, -2),
    ):
        assert [*held[part]] == many[part] and len(held[part]) == len(many[part])
        assert [*held[5:45][part]] == many[5:45][part]
    with pytest.raises(IndexError):
        held[50]
    assert not Rows() and [*Rows()] == [] and Rows()[:3].chosen == range(0)


@pytest.mark.parametrize("digest", [hash, lambda name: len(name) % 2, lambda name: 0])
def test_rows_are_found_by_their_ids(many, digest, monkeypatch):
    """Also where all names have one hash."""
    monkeypatch.setattr(module, "hash", digest, raising=False)
    for held, expected in ((Rows(many), many), (Rows(many)[31:7:-3], many[31:7:-3])):
        found = ById(held)
        assert [*found] == [row.image_id for row in expected] and len(found) == len(expected)
        assert [*found.values()] == expected
        for row in many:
            assert found.get(row.image_id) == (row if row in expected else None)
            assert (row.image_id in found) == (row in expected)
        assert "nobody" not in found and found.twice() is None
        with pytest.raises(KeyError):
            found["nobody"]
    twice = [*many, many[9]._replace(line=99), many[3]._replace(line=100)]
    assert ById(Rows(twice)).twice() == many[9].image_id
    assert ById(Rows(twice))[many[9].image_id] == many[9]
    assert ById(Rows()).twice() is None and ById(Rows()).get("a") is None
