"""The lines of a manifest as cells: text, CSV and JSONL, a block of lines at a time, so that a million rows take seconds."""

import codecs
import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from data.files import nearest

COLUMNS = ("path", "image_id", "subject", "split", "slice", "window", "label", "sha256")
SPACINGS = ((", ", ": "), (",", ":"))  # of JSON objects, as programs write them
WHOLE = ("slice", "label")  # numbers in JSON; the other columns are strings
_ESCAPES = re.compile(r"\\u[0-9a-fA-F]{4}(?:\\u[0-9a-fA-F]{4})*")  # several: a pair may be one character
LINE_LIMIT = 65536  # bytes; no honest row is longer, and a binary file given by mistake must not fill the memory
_BLOCK = 1 << 16  # bytes; what becomes of it stays in the cache of a core
_ORDINARY = bytes(range(32, 127)).replace(b"\\", b"") + b"\n"  # that nothing about a row can hide in


class Bad(Exception):
    """What is wrong with a row. line: where, if not the row being looked at."""

    def __init__(self, reason: str, line: int = 0):
        super().__init__(reason)
        self.line = line


Cells = Sequence[Any]  # of a row, in the order of COLUMNS, None or "" where there is nothing; empty for a blank line
Rows = Iterator[
    tuple[int, bool, Iterable[Cells]]
]  # number of the first line; whether all is plain and without spaces; an entry a line


class Block(NamedTuple):
    """Some lines of the file. plain: nothing in them needs a second look ('..', escapes, control characters)."""

    first: int
    plain: bool
    text: str


def blocks(path: Path) -> Iterator[Block]:
    """The lines, 64 KiB at a time."""
    line, rest = 1, b""
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            whole, newline, rest = (rest + block).rpartition(b"\n")
            if len(rest) > LINE_LIMIT:
                raise Bad(f"longer than {LINE_LIMIT} bytes; is this a manifest?", line + whole.count(b"\n") + len(newline))
            if newline:
                yield _block(whole, line)
                line += whole.count(b"\n") + 1
        if rest:
            yield _block(rest, line)


def _block(content: bytes, line: int) -> Block:
    content = content.removeprefix(codecs.BOM_UTF8) if line == 1 else content
    if b"\r" in content:
        content = content.replace(b"\r\n", b"\n").removesuffix(b"\r")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise Bad("is not UTF-8; save the manifest as UTF-8", line + content[: error.start].count(b"\n")) from None
    return Block(line, _plain(content), text)


def _plain(content: bytes) -> bool:
    """Whether nothing in these lines of UTF-8 needs a second look."""
    unusual = content.translate(None, _ORDINARY)  # little, so that asking whether it can be printed takes no time
    return b".." not in content and (not unusual or (b"\\" not in unusual and unusual.decode().isprintable()))


def _trimmed(text: str, *edges: str) -> bool:
    """Whether no cell begins or ends with a space. edges: what cells lie between."""
    return " " not in text or not (
        text[0] == " " or text[-1] == " " or any(f" {edge}" in text or f"{edge} " in text for edge in edges)
    )


def text_rows(lines_of: Iterable[Block]) -> Rows:
    """One path a line."""
    nothing = (None,) * (len(COLUMNS) - 1)
    for first, plain, text in lines_of:
        yield (
            first,
            plain and _trimmed(text, "\n"),
            ((line, *nothing) if line and not line.isspace() else () for line in text.split("\n")),
        )


def csv_rows(lines_of: Iterable[Block]) -> Rows:
    """A header, then one row a line."""
    pick: Callable[[list[str]], Cells] | None = None
    for first, plain, text in lines_of:
        rows = _unquoted(text.split("\n"), first) if '"' in text else [line.split(",") for line in text.split("\n")]
        if pick is None:
            header = [name.strip() for name in rows.pop(0)]
            pick, first = _columns(header), first + 1
        if set(map(len, rows)) != {len(header)} or len(header) == 1:
            rows = [_whole(cells, len(header), line) for line, cells in enumerate(rows, first)]
        yield (
            first,
            plain and _trimmed(text, "\n", ",", '"'),
            rows if header == list(COLUMNS) else (pick(cells) if cells else () for cells in rows),
        )
    if pick is None:
        raise Bad("there is no header; it names the columns, separated by commas", 1)


def _unquoted(lines: list[str], first: int) -> list[list[str]]:
    """The cells of every line, where there are quotation marks."""
    reader = csv.reader(lines, strict=True)
    try:
        rows = list(reader)
        if len(rows) != len(lines):
            raise csv.Error("a quoted cell runs over the end of the line")
        return rows
    except csv.Error as error:
        odd = (i for i, text in enumerate(lines) if text.count('"') % 2)
        raise Bad(str(error), first + next(odd, reader.line_num - 1)) from None


def _whole(cells: list[str], width: int, line: int) -> list[str]:
    """A row of the right width, or nothing for a blank line."""
    if len(cells) == width and (width > 1 or cells[0].strip()):
        return cells
    if any(map(str.strip, cells)):
        raise Bad(f"has {len(cells)} cells where the header has {width}", line)
    return []


def _columns(header: list[str]) -> Callable[[list[str]], Cells]:
    """What puts the cells of a row into the order of COLUMNS."""
    for name in header:
        _known(name, 1)
    if len(set(header)) < len(header) or "path" not in header:
        raise Bad(f"the header must name 'path', and no column twice; it names {', '.join(header)}", 1)
    places = [header.index(name) if name in header else None for name in COLUMNS]
    return lambda cells: [None if place is None else cells[place] for place in places]


def _known(name: str, line: int) -> None:
    if name not in COLUMNS:
        raise Bad(f"unknown column {name[:80]!r}{nearest(name, COLUMNS)}", line)


def jsonl_rows(lines_of: Iterable[Block]) -> Rows:
    """One object a line."""
    for first, plain, text in lines_of:
        easy = text if plain else _ESCAPES.sub(lambda escapes: _meant(escapes[0]), text)
        rows = _alike(easy) if plain or _plain(easy.encode()) else []
        if len(rows) == text.count("\n") + 1:
            yield first, True, rows
        else:
            yield first, False, (_object(line, number) for number, line in enumerate(text.split("\n"), first))


@lru_cache(4096)
def _meant(escapes: str) -> str:
    """The characters, if none is ASCII: an escaped brace or digit means itself in a string and is an error elsewhere."""
    meant = json.loads(f'"{escapes}"')
    return meant if meant.isprintable() and min(meant) > "\x7f" else escapes


def _alike(text: str) -> Sequence[Cells]:
    """The rows of the lines that have the keys and the spacing of the first one, and nothing to unescape or to trim.

    Written by one program all lines are so, and a pattern that admits nothing else is faster than a parser.
    """
    line = text.partition("\n")[0]
    try:
        keys = tuple(record := json.loads(line))
        comma, colon = next(s for s in SPACINGS if json.dumps(record, ensure_ascii=False, separators=s) == line)
        pick = _columns(list(keys))
    except (ValueError, TypeError, RecursionError, StopIteration, Bad):
        return []
    found = _pattern(keys, comma, colon).findall(text)
    return found if keys == COLUMNS else list(map(pick, found))


@lru_cache(16)
def _pattern(keys: tuple[str, ...], comma: str, colon: str) -> re.Pattern[str]:
    """A whole line that is an object of these keys; a group for each value, empty for null; for part of them one empty more."""
    string, whole = '(?:"((?! )[^"\\n]*+(?<! ))"|null)', "(?:(0|-?[1-9][0-9]{0,17})|null)"
    members = comma.join(f'"{key}"{colon}{whole if key in WHOLE else string}' for key in keys)
    return re.compile(rf"^\{{{members}\}}{'' if keys == COLUMNS else '()'}$", re.MULTILINE)


def _object(text: str, line: int) -> Cells:
    if not text or text.isspace():
        return ()
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Bad(f"is not JSON ({error})", line) from None
    if type(record) is not dict:
        raise Bad("is not a JSON object", line)
    for name in record:
        _known(name, line)
    return [record.get(name) for name in COLUMNS]
