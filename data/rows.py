"""Rows of a manifest held as bytes, so that a million of them need 0.1 GB. Each becomes an object when it is asked for."""

import marshal
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from functools import cached_property
from itertools import accumulate, islice
from typing import Any, overload

import numpy as np

from data.manifest import Row

# Of so many folders the names are held once; those of further ones stand in every row.
FOLDERS = 4096
# Rows whose bytes are one piece: a single piece would leave holes in memory as it grows.
TOGETHER = 256


class Rows(Sequence[Row]):
    """Rows in their order. A slice of them is another view of the same bytes."""

    def __init__(self, rows: Iterable[Row] = ()):
        self.pieces, self.ends = list[bytes](), list[array]()
        names, folders = [np.empty(0, np.int64)], dict[str, int]()
        rows = iter(rows)
        while some := list(islice(rows, TOGETHER)):
            held = [_packed(row, folders) for row in some]
            self.pieces.append(b"".join(held))
            self.ends.append(array("i", accumulate(map(len, held))))
            names.append(np.array([hash(row.image_id) for row in some]))
        self.names = np.concatenate(names)  # hashes of the ids, in this process
        self.folders, self.chosen = [*folders], range(len(self.names))

    def __len__(self) -> int:
        return len(self.chosen)

    @overload
    def __getitem__(self, key: int) -> Row: ...
    @overload
    def __getitem__(self, key: slice) -> "Rows": ...
    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, slice):
            return self._at(self.chosen[key])
        part = copy(self)
        part.chosen = self.chosen[key]
        return part

    def __iter__(self) -> Iterator[Row]:
        return map(self._at, self.chosen)

    def _at(self, number: int) -> Row:
        piece, place = divmod(number, TOGETHER)
        ends = self.ends[piece]
        begin = ends[place - 1] if place else 0
        folder, name, *rest = marshal.loads(memoryview(self.pieces[piece])[begin : ends[place]])
        return Row(name if folder is None else self.folders[folder] + name, *rest)


def _packed(row: Row, folders: dict[str, int]) -> bytes:
    """folders: their numbers; a new one is added."""
    path, *rest = row
    folder, slash, name = path.rpartition("/")
    if len(folders) < FOLDERS:
        folders.setdefault(folder + slash, len(folders))
    number = folders.get(folder + slash)
    return marshal.dumps((number, path if number is None else name, *rest))


class ById(Mapping[str, Row]):
    """Rows by their image ids, in the rows' order; of several with one id, the first.

    Ids are found by their hashes, which costs 8 bytes a row, and compared as they are.
    """

    def __init__(self, rows: Rows):
        self.rows = rows
        chosen, every = rows.chosen, range(len(rows.names))
        self.names = rows.names if chosen == every else rows.names[np.array(chosen, int)]

    @cached_property
    def order(self) -> np.ndarray:
        """The rows' numbers in the order of their hashes."""
        return np.argsort(self.names, kind="stable")

    def number(self, image_id: str) -> int | None:
        """Which row has this id."""
        wanted = hash(image_id)
        for place in self.order[np.searchsorted(self.names, wanted, sorter=self.order) :]:
            if self.names[place] != wanted:
                break
            if self.rows[int(place)].image_id == image_id:
                return int(place)
        return None

    def twice(self) -> str | None:
        """The id that two rows have, if there is one: of several the one that is met first."""
        hashes = np.sort(self.names)
        suspects = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
        seen = set[str]()
        for row in self.rows if suspects else ():
            if hash(row.image_id) in suspects:
                if row.image_id in seen:
                    return row.image_id
                seen.add(row.image_id)
        return None

    def __getitem__(self, image_id: str) -> Row:
        number = self.number(image_id)
        if number is None:
            raise KeyError(image_id)
        return self.rows[number]

    def __contains__(self, image_id: object) -> bool:
        return isinstance(image_id, str) and self.number(image_id) is not None

    def __iter__(self) -> Iterator[str]:
        return (row.image_id for row in self.rows)

    def __len__(self) -> int:
        return len(self.rows)
