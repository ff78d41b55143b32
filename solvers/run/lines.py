"""The lines of a file of records, by their images: 12 bytes a line, so that a million of them need little memory.

Names are held as hashes. Only of those that stand in several lines are the names themselves looked at again, so that two
images are never taken for one.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np

from data.files import replacing

BLOCK = 4096  # names that are looked for at once
NOBODY = -1  # no text has this hash; lines that are nobody's


def lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, if it is there; a last one cut short by a crash was never committed."""
    if path.exists():
        with path.open("rb") as file:
            yield from (line for line in file if line.endswith(b"\n"))


class Lines:
    """name_of: whose a line is, "" of a bad one; asked of every line, in order. again: the same, of lines asked for before.

    counted: whether each line is the last of its name.
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
        self.names, self.lengths = np.asarray(names), np.asarray(lengths)
        self.several: dict[str, int] = {}  # of names whose hash stands in several lines, the last
        self.single, self.counted = self._resolve()

    def _resolve(self) -> tuple[np.ndarray, np.ndarray]:
        """Whether each line is the only one whose name has its hash, and whether it is the last of its name."""
        ordered = np.sort(self.names)
        self.twice = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist()) - {NOBODY}
        single = self.names != NOBODY
        if self.twice:
            several = np.isin(self.names, list(self.twice))
            single &= ~several
            for number, line in enumerate(lines(self.path)):
                if number < len(several) and several[number]:
                    self.several[self.again(line)] = number
        counted = single.copy()
        counted[[*self.several.values()]] = True
        return single, counted

    def find(self, names: Iterable[str]) -> np.ndarray:
        """The number of each name's last line, -1 where there is none."""
        order = np.argsort(self.names)
        order = order[self.single[order]]
        known, found, names = self.names[order], array("i"), iter(names)
        while block := list(islice(names, BLOCK)):
            hashes = np.fromiter(map(hash, block), np.int64)
            place = np.searchsorted(known, hashes)
            place[place == len(known)] = 0
            there = known[place] == hashes if len(known) else np.zeros(len(block), bool)
            numbers = np.full(len(block), -1, np.int32)
            numbers[there] = order[place[there]]
            if self.twice:
                for i in np.flatnonzero(np.isin(hashes, list(self.twice))):
                    numbers[i] = self.several.get(block[i], -1)
            found.frombytes(numbers.tobytes())
        return np.asarray(found)

    def ordered(self, names: Iterable[str]) -> np.ndarray:
        """The last lines in the order of these names; those of other names follow."""
        chosen = self.find(names)
        chosen = chosen[chosen >= 0]
        chosen = chosen[np.sort(np.unique(chosen, return_index=True)[1])]
        others = self.counted.copy()
        others[chosen] = False
        return np.concatenate([chosen, np.flatnonzero(others)])

    def at(self, numbers: Iterable[int], file: IO[bytes] | None = None) -> Iterator[bytes]:
        """These lines. file: open since this was made, where another may have taken its place meanwhile."""
        starts = np.cumsum(self.lengths, dtype=np.int64) - self.lengths
        with nullcontext(file) if file else self.path.open("rb") as opened:
            for number in numbers:
                opened.seek(int(starts[number]))
                yield opened.read(int(self.lengths[number]))

    def keep(self, numbers: Sequence[int] | np.ndarray) -> None:
        """Leave these lines of the file, in this order, and no others; nothing is written if that is what it holds.

        A file that is not there becomes an empty one.
        """
        there = self.path.exists()
        size = self.path.stat().st_size if there else 0
        numbers = np.asarray(numbers, np.int64)
        same = size == int(self.lengths[numbers].sum(dtype=np.int64)) and bool(
            (np.diff(numbers) > 0).all()
        )
        if there and same:
            return
        with replacing(self.path) as new:
            for line in self.at(numbers) if size else ():
                new.write(line)
