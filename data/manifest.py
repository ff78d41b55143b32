"""Manifests: which images there are, whose they are, and how their intensities are read. Text, CSV or JSONL.

* `.csv`: a header naming columns out of `COLUMNS`, `path` among them, separated by commas;
* `.jsonl`: one object per line with keys out of `COLUMNS`, `path` among them;
* any other suffix is text: one path per line, as the published scripts write.

Relative paths are relative to the manifest, so that a data set can be moved or mounted elsewhere, and must not climb out of its
folder (`..`). Absolute paths are taken as they are. UTF-8, with or without a byte order mark, any line end; blank lines are
skipped. `read` streams and looks at the text only; `check` also looks across rows and at the disk.
"""

import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

COLUMNS = ("path", "image_id", "subject", "split", "slice", "window", "label", "sha256")
LINE_LIMIT = 65536  # bytes; no honest row is longer, and a binary file given by mistake must not fill the memory
ID_LIMIT = 200  # bytes; file systems allow 255 for a name, and results add suffixes to it
_BLOCK = 1 << 18


class Row(NamedTuple):
    """One image."""

    path: str  # the manifest's folder has been put before a relative one
    image_id: str  # unique, and a safe file name; made from the path (and slice) where the manifest gives none
    subject: str = ""  # pseudonym of the person; "" if not told
    split: str = ""  # "train", "val", "test" or any other word; "" if not told
    slice: int | None = None  # index in a volume or multi-frame file, from 0; None for a picture
    window: tuple[float, float] | None = None  # the stored values that become -1 and +1; None: as the file says
    label: int = -1  # class, from 0; -1 if none
    sha256: str = ""  # of the file; "" if not told
    line: int = 0  # line in the manifest, from 1


def read(path: str | Path) -> Iterator[Row]:
    """Every row, in order. Raises ValueError (one line: file, row, reason) at the first that is not right."""
    path = Path(path)
    records = {".csv": _csv, ".jsonl": _jsonl}.get(path.suffix.lower(), _text)
    folder = "" if path.parent == Path(".") else f"{path.parent}/".replace("//", "/")
    windows: dict[Any, tuple[float, float] | None] = {None: None, "": None}
    line = 0
    try:
        for line, record in records(_blocks(path)):
            yield _row(record, folder, line, windows)
    except _Bad as error:
        raise ValueError(f"{path}: row {error.line or line}: {error}") from None
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from None


class _Bad(Exception):
    """What is wrong with a row. line: where, if not the row being read."""

    def __init__(self, reason: str, line: int = 0):
        super().__init__(reason)
        self.line = line


Record = tuple[Any, ...]  # the cells of a row in the order of COLUMNS; None or "" where there is none
Blocks = Iterable[tuple[int, list[str]]]


def _blocks(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(number of the first line, lines), a quarter of a mebibyte at a time."""
    line, rest = 1, b""
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            whole, newline, rest = (rest + block).rpartition(b"\n")
            if len(rest) > LINE_LIMIT:
                raise _Bad(f"longer than {LINE_LIMIT} bytes; is this a manifest?", line + whole.count(b"\n") + bool(newline))
            if newline:
                yield line, (lines := _lines(whole, line))
                line += len(lines)
        if rest:
            yield line, _lines(rest, line)


def _lines(content: bytes, line: int) -> list[str]:
    try:
        text = content.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise _Bad("is not UTF-8; save the manifest as UTF-8", line + content[: error.start].count(b"\n")) from None
    return (text.replace("\r\n", "\n").removesuffix("\r") if "\r" in text else text).split("\n")


def _text(blocks: Blocks) -> Iterator[tuple[int, Record]]:
    nothing = (None,) * (len(COLUMNS) - 1)
    for first, lines in blocks:
        for number, text in enumerate(lines, first):
            if text := text.strip():
                yield number, (text, *nothing)


def _csv(blocks: Blocks) -> Iterator[tuple[int, Record]]:
    pick: Callable[[list[str]], Record] | None = None
    width = 0
    for first, lines in blocks:
        reader = csv.reader(lines, strict=True)  # a row is a line: a quoted cell must not run over the end of one
        try:
            for cells in reader:
                if pick is None:
                    pick, width = _columns(cells), len(cells)
                elif len(cells) == width:
                    yield first + reader.line_num - 1, pick(cells)
                elif any(map(str.strip, cells)):
                    raise _Bad(f"has {len(cells)} cells, the header {width}", first + reader.line_num - 1)
        except csv.Error as error:
            raise _Bad(str(error), first + reader.line_num - 1) from None
    if pick is None:
        raise _Bad("there is no header; it names the columns, separated by commas", 1)


def _columns(header: list[str]) -> Callable[[list[str]], Record]:
    names = [name.strip() for name in header]
    for name in names:
        _known(name)
    if len(set(names)) < len(names) or "path" not in names:
        raise _Bad(f"the header must name 'path', and no column twice; it names {', '.join(names)}")
    places = [names.index(name) if name in names else None for name in COLUMNS]
    if places == list(range(len(COLUMNS))):
        return tuple
    return lambda cells: tuple([None if place is None else cells[place] for place in places])


def _known(name: str) -> None:
    if name not in COLUMNS:
        close = get_close_matches(name, COLUMNS, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"allowed: {', '.join(COLUMNS)}"
        raise _Bad(f"unknown column {name[:80]!r}; {hint}")


def _jsonl(blocks: Blocks) -> Iterator[tuple[int, Record]]:
    known = frozenset(COLUMNS)
    for first, lines in blocks:
        for number, text in enumerate(lines, first):
            if not text or text.isspace():
                continue
            try:
                record = json.loads(text)
            except (json.JSONDecodeError, RecursionError) as error:
                raise _Bad(f"is not JSON ({error})", number) from None
            if type(record) is not dict:
                raise _Bad("is not a JSON object", number)
            if not record.keys() <= known:
                _known(next(name for name in record if name not in known))
            get = record.get
            yield number, tuple([get(name) for name in COLUMNS])


def _row(record: Record, folder: str, line: int, windows: dict) -> Row:
    """The checked row. windows: those parsed before, since a million rows share a few."""
    path, image_id, subject, split, slice_, window, label, sha256 = record
    for text in (path, image_id, subject, split, sha256):
        if text is not None and (type(text) is not str or not text.isprintable()):
            raise _Bad(f"{str(text)[:80]!r} is not printable text", line)
    path = path.strip() if path else ""
    if not path:
        raise _Bad("the path is empty", line)
    if ".." in path and ".." in path.split("/"):
        raise _Bad(f"{path[:80]!r} climbs out of its folder ('..')", line)
    index = None if slice_ is None or slice_ == "" else _integer(slice_, "slice", line)
    try:
        bounds = windows[window]
    except (KeyError, TypeError):
        bounds = windows[str(window)] = _window(window, line)
    if image_id:
        image_id = _identity(image_id.strip(), line)
    else:
        image_id = identify(path.removeprefix(folder) if path[0] == "/" else path, index)
    return Row(
        path if path[0] == "/" else folder + path,
        image_id,
        subject.strip() if subject else "",
        split.strip() if split else "",
        index,
        bounds,
        -1 if label is None or label == "" or label == -1 or label == "-1" else _integer(label, "label", line),
        sha256.strip() if sha256 else "",
        line,
    )


def identify(path: str, index: int | None = None) -> str:
    """The image id of a path in a data set: folders joined by '__', no suffix, and the slice: 'a/b.nii.gz', 7 -> 'a__b-0007'."""
    folder, slash, name = path.rpartition("/")
    stem = name[:1] + name[1:].split(".", 1)[0] if name.endswith(".nii.gz") else name[:1] + name[1:].rsplit(".", 1)[0]
    joined = f"{folder}{slash}{stem}".strip("/").replace("/", "__").lstrip(".") or "image"
    return joined if index is None else f"{joined}-{index:04d}"


def _identity(image_id: str, line: int) -> str:
    if not image_id or image_id[0] == "." or "/" in image_id or "\\" in image_id or len(image_id.encode()) > ID_LIMIT:
        raise _Bad(f"image_id {image_id[:80]!r} is no safe file name (no slash, no leading dot, at most {ID_LIMIT} bytes)", line)
    return image_id


def _integer(value: Any, name: str, line: int) -> int:
    try:
        number = int(value) if type(value) in (int, str) and len(str(value)) < 19 else -1
    except ValueError:
        number = -1
    if number < 0:
        raise _Bad(f"{name} {str(value)[:80]!r} is not a whole number from 0", line)
    return number


def _window(value: Any, line: int) -> tuple[float, float]:
    """'low:high' in stored units."""
    try:
        low, high = map(float, value.split(":"))
    except (AttributeError, ValueError):
        low = high = math.nan
    if not (low < high and math.isfinite(high - low)):
        raise _Bad(f"window {str(value)[:80]!r} is not 'low:high' with low < high, in stored units", line)
    return low, high
