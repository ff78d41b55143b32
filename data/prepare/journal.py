"""The journal of a preparation: what was asked, then a line for every finished file."""

import json
from pathlib import Path
from typing import Any


class Journal:
    """Records by (split, file), appended as they come; a line that a kill cut short does not count.

    Only places in the file are kept in memory. If something else is asked than the journal was begun for, it begins anew.
    """

    def __init__(self, path: Path, asked: dict[str, Any]):
        self.path, self.asked = path, json.dumps(asked, sort_keys=True).encode() + b"\n"
        self.places: dict[tuple[str, str], int] = {}

    def __enter__(self) -> "Journal":
        self.stream = self.path.open("a+b")
        self.stream.seek(0)
        end = 0
        if self.stream.readline() == self.asked:
            end = self.stream.tell()
            while (line := self.stream.readline()).endswith(b"\n"):
                try:
                    record = json.loads(line)
                except ValueError:  # the disk lost it
                    break
                self.places[record["split"], record["file"]] = end
                end = self.stream.tell()
        self.stream.truncate(end)
        if not end:
            self.stream.write(self.asked)
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()

    def get(self, split: str, file: str) -> dict[str, Any] | None:
        """The last record of a file."""
        place = self.places.get((split, file))
        if place is None:
            return None
        self.stream.seek(place)
        return json.loads(self.stream.readline())

    def add(self, record: dict[str, Any]) -> None:
        """Append; it is on its way to the disk when this returns."""
        self.stream.seek(0, 2)
        self.stream.write(json.dumps(record).encode() + b"\n")
        self.stream.flush()
