"""The lines of a manifest as cells: text, CSV and JSONL, one line at a time, so that memory does not grow with the file."""

import codecs
import csv
import json
from collections.abc import Iterator, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

from data.files import nearest

COLUMNS = ("path", "image_id", "subject", "split", "slice", "window", "label", "sha256")
OPTIONAL = ("leak",)  # columns that few manifests have
KNOWN = (*COLUMNS, *OPTIONAL)
LINE_LIMIT = 65536  # bytes; no honest row is longer, and a binary file given by mistake must not fill the memory

Lines = Iterator[tuple[int, str]]  # number from 1, text without its end
Rows = Iterator[
    tuple[int, Sequence[Any]]
]  # number of the line, its cells in the order of KNOWN; None or "" where there is nothing


class Bad(Exception):
    """What is wrong with a row. line: where, if it is not the row being looked at."""

    def __init__(self, reason: str, line: int = 0):
        super().__init__(reason)
        self.line = line


def lines(path: Path) -> Lines:
    """The lines of a UTF-8 file, with or without a byte order mark; they end in LF or CRLF."""
    with path.open("rb") as stream:
        for number, line in enumerate(iter(partial(stream.readline, LINE_LIMIT + 1), b""), 1):
            if len(line) > LINE_LIMIT:
                raise Bad(f"longer than {LINE_LIMIT} bytes; is this a manifest?", number)
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            try:
                text = line.decode()
            except UnicodeDecodeError:
                raise Bad("is not UTF-8; save the manifest as UTF-8", number) from None
            yield number, text.rstrip("\r\n")


def text_rows(found: Lines) -> Rows:
    """One path a line."""
    nothing = (None,) * (len(KNOWN) - 1)
    for number, text in found:
        if text and not text.isspace():
            yield number, (text, *nothing)


def csv_rows(found: Lines) -> Rows:
    """A header that names columns, then one row a line."""
    _, header = next(found, (1, ""))
    names = [name.strip() for name in _cells(header, 1)]
    if not header:
        raise Bad("there is no header; it names the columns, separated by commas", 1)
    for name in names:
        _check_column(name, 1)
    if len(set(names)) < len(names) or "path" not in names:
        raise Bad(
            f"the header must name 'path', and no column twice; it names {', '.join(names)}", 1
        )
    width = len(names)
    order = itemgetter(*(names.index(name) if name in names else width for name in KNOWN))
    for number, text in found:
        cells = _cells(text, number)
        if len(cells) == width and (width > 1 or cells[0].strip()):
            yield number, order([*cells, None])
        elif text.replace(",", "").strip():
            raise Bad(f"has {len(cells)} cells where the header has {width}", number)


def jsonl_rows(found: Lines) -> Rows:
    """One JSON object a line."""
    decode, known = json.JSONDecoder().decode, set(KNOWN)
    for number, text in found:
        if not text or text.isspace():
            continue
        try:
            record = decode(text)
        except (ValueError, RecursionError) as error:
            raise Bad(f"is not JSON ({error})", number) from None
        if type(record) is not dict:
            raise Bad("is not a JSON object", number)
        if not record.keys() <= known:
            _check_column(next(name for name in record if name not in known), number)
        yield number, list(map(record.get, KNOWN))


def _cells(text: str, number: int) -> list[str]:
    if '"' not in text:
        return text.split(",")
    try:
        return next(csv.reader([text], strict=True))
    except csv.Error as error:
        raise Bad(f"{error}; no quoted cell runs over the end of its line", number) from None


def _check_column(name: str, number: int) -> None:
    if name not in KNOWN:
        raise Bad(f"unknown column {name[:80]!r}{nearest(name, KNOWN)}", number)
