"""The lines of a file of records, by their images: 12 bytes a line, so that a million of them need little memory.

Names are held as hashes. Only of those that stand in several lines are the names themselves looked at again, so that two
images are never taken for one.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import IO

import numpy as np

from data.files import replacing

NOBODY = -1  # no text has this hash; lines that are nobody's


def lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, if it is there; a last one cut short by a crash was never committed."""
    if path.exists():
        with path.open("rb") as file:
            yield from (line for line in file if line.endswith(b"\n"))


class Lines:
    """name_of: whose a line is, "" of a bad one; asked of every line, in order. again: the same, of lines asked for before.

    last: the numbers of the last lines of all names, ascending.
    """

    def __init__(
        self,
        path: Path,
        name_of: Callable[[bytes], str],
        again: Callable[[bytes], str] | None = None,
    ):
        self.path, self.again = path, again or name_of
        names, lengths = array("q"), array("i")
        for line in lines(path):
            name = name_of(line)
            names.append(hash(name) if name else NOBODY)
            lengths.append(len(line))
        self.names = np.array(names, np.int64)
        self.lengths = np.array(lengths, np.int64)
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.several: dict[str, int] = {}  # of names whose hash stands in several lines, the last
        self.last = self._resolve()

    def _resolve(self) -> np.ndarray:
        values, counts = np.unique(self.names, return_counts=True)
        self.twice = set(values[counts > 1].tolist()) - {NOBODY}
        single = self.names != NOBODY
        if self.twice:
            several = np.isin(self.names, list(self.twice))
            single &= ~several
            for number, line in enumerate(lines(self.path)):
                if number < len(several) and several[number]:
                    self.several[self.again(line)] = number
        self.single = np.flatnonzero(single)
        return np.sort(np.concatenate([self.single, [*self.several.values()]]).astype(np.int64))

    def find(self, names: Iterable[str]) -> np.ndarray:
        """The number of each name's last line, -1 where there is none."""
        hashes, special = array("q"), dict[int, int]()
        for number, name in enumerate(names):
            hashes.append(hash(name))
            if hashes[-1] in self.twice:
                special[number] = self.several.get(name, -1)
        wanted, known = np.array(hashes, np.int64), self.names[self.single]
        found = np.full(len(wanted), -1)
        if len(known):
            order = np.argsort(known)
            place = np.minimum(np.searchsorted(known, wanted, sorter=order), len(known) - 1)
            there = known[order[place]] == wanted
            found[there] = self.single[order[place[there]]]
        found[list(special)] = list(special.values())
        return found

    def ordered(self, names: Iterable[str]) -> np.ndarray:
        """The last lines in the order of these names; those of other names follow."""
        chosen = self.find(names)
        chosen = chosen[chosen >= 0]
        chosen = chosen[np.sort(np.unique(chosen, return_index=True)[1])]
        others = np.ones(len(self.names), bool)
        others[chosen] = False
        return np.concatenate([chosen, self.last[others[self.last]]])

    def at(self, numbers: Iterable[int], file: IO[bytes] | None = None) -> Iterator[bytes]:
        """These lines. file: open since this was made, where another may have taken its place meanwhile."""
        with nullcontext(file) if file else self.path.open("rb") as opened:
            for number in numbers:
                opened.seek(int(self.starts[number]))
                yield opened.read(int(self.lengths[number]))

    def keep(self, numbers: Sequence[int] | np.ndarray) -> None:
        """Leave these lines of the file, in this order, and no others; nothing is written if that is what it holds.

        A file that is not there becomes an empty one.
        """
        there = self.path.exists()
        size = self.path.stat().st_size if there else 0
        numbers = np.asarray(numbers, np.int64)
        same = size == int(self.lengths[numbers].sum()) and bool((np.diff(numbers) > 0).all())
        if there and same:
            return
        with replacing(self.path) as new:
            for line in self.at(numbers) if size else ():
                new.write(line)
