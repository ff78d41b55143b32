"""What several solvers made of the same images, side by side: a row an image, a column a task and solver."""

import html
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import PIL.Image

from data.files import json_lines
from solvers.run import panels
from solvers.run.figures import uri

ROWS = 12  # on the page; the folders hold them all
WIDTH = 256  # pixels of a picture at most


def table(folder: Path, names: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Head and rows, as HTML, of the first images that the first of these folders restored. names: of the folders."""
    first = {record["image_id"]: record for record in islice(_restored(folder / names[0]), ROWS)}
    columns = {name: _of(folder / name, first) for name in names}
    rows, truths = [], False
    for image_id in first:
        records = {name: columns[name].get(image_id, {}) for name in names}
        made = {name: _opened(folder / name, record) for name, record in records.items()}
        truth = next(
            (
                _cut(panel, "truth")
                for panel in made.values()
                if panel and "truth" in panels.places(panel)
            ),
            "",
        )
        cells = [
            _cut(panel, "restored") + _numbers(records[name]) if panel else "–"
            for name, panel in made.items()
        ]
        rows.append([html.escape(image_id), truth, *cells])
        truths |= bool(truth)
    return ["", "truth" * truths, *map(html.escape, names)], rows


def _restored(folder: Path) -> Iterator[Mapping[str, Any]]:
    return (record for record in json_lines(folder / "records.jsonl") if record["status"] == "ok")


def _of(folder: Path, wanted: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The records of these images; reading ends when all of them are found."""
    found: dict[str, Mapping[str, Any]] = {}
    for record in _restored(folder):
        if record["image_id"] in wanted:
            found[record["image_id"]] = record
            if len(found) == len(wanted):
                break
    return found


def _opened(folder: Path, record: Mapping[str, Any]) -> PIL.Image.Image | None:
    file = record.get("files", {}).get("panels", "")
    if not file.endswith(".png"):
        return None
    panel = PIL.Image.open(folder / file)
    panel.load()  # which closes the file
    return panel


def _cut(panel: PIL.Image.Image, part: str) -> str:
    """A part of a panel as an <img>; of volumes, whose panels have several planes, all of it."""
    box = panels.places(panel).get(part)
    picture = panel.crop(box) if box else panel.copy()
    picture.thumbnail((WIDTH, WIDTH))
    return f"<img alt='{part}' src='{uri(picture)}'>"


def _numbers(record: Mapping[str, Any]) -> str:
    psnr, residual = record.get("psnr"), record.get("residual")
    said = [
        f"{psnr:.2f} dB" if psnr is not None else "",
        f"residual {residual:.2f}" if residual is not None else "",
    ]
    return f"<small>{', '.join(filter(None, said))}</small>"
