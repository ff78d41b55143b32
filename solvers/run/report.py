"""A result folder as one page that needs nothing else: numbers with their intervals, panels, and how it was made."""

import base64
import html
import json
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import yaml

from data.bounded_yaml import read_yaml
from data.files import commit_json, json_lines
from solvers.run import gallery, page, panels
from solvers.run.figures import sliding
from solvers.run.plots import bars
from solvers.run.record import COLUMNS
from solvers.run.results import Results

PANELS = 48  # on a page; the folder holds them all
# What is compared with the restored image: the first of its size.
BEFORE = ("classical", "measurement", "truth")
MARKS = {"residual": 1.0, "coverage": 0.9}  # where they should lie
MEANING = """Metrics are in the range [0, 1]; intervals are 95 % of the mean. A residual of 1 means that the data are met to
the noise level; much more is unexplained data, much less is fitted noise. Research use, not for diagnosis."""


def write(folder: Path) -> Path:
    """report.html of a folder of results; returns its path. Records are read one by one: a run may have a million."""
    summary, config = (
        json.loads((folder / "summary.json").read_text()),
        read_yaml((folder / "config.yaml").read_text(), folder / "config.yaml"),
    )
    return page.write(folder / "report.html", folder.name, _parts(folder, summary, config))


def _parts(folder: Path, summary: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[str]:
    """The page piece by piece."""
    pictures, bad, found = list[str](), list[str](), Places()
    spread = {key: array("d") for key in MARKS}
    for record in json_lines(folder / "records.jsonl"):
        if record["status"] != "ok":
            said = f"{html.escape(record['image_id'])}: {html.escape(record['status'])}"
            bad.append(f"<li>{said}</li>")
            continue
        if found.add(place := _file(record)):
            pictures.append(_picture(folder, record, found[place]))
        for key, values in spread.items():
            values.extend([record[key]] if record.get(key) is not None else [])
    cost = f"{_number(summary['seconds_per_image'], 1)} s an image, peak memory {summary['peak_memory_mb']} MB"
    yield f"<p class=note>{summary['images']} images restored, {len(bad)} failed; {cost}. {MEANING}</p>"
    if config.get("note"):
        note = html.escape(config["note"][:1].upper() + config["note"][1:])
        yield f"<p class=note>{note}.</p>"
    yield "<h2>Summary</h2>"
    yield _table(["", "mean", "95 % interval", "n"], _summary_rows(summary))
    yield _histograms(spread)
    if bad:
        yield "<h2 class=bad>Failed</h2><ul>"
        yield from bad
        yield "</ul>"
    yield "<h2>Panels</h2>"
    yield from pictures
    if found.others:
        yield f"<p class=note>{found.others} more in panels/.</p>"
    yield "<h2>Images</h2>"
    keys = _present([summary])
    head = ["image", *(COLUMNS[key][0] for key in keys), "network calls", "backward passes"]
    restored = (r for r in json_lines(folder / "records.jsonl") if r["status"] == "ok")
    yield from _framed(head, (_cells(r, keys, found.get(_file(r))) for r in restored))
    yield "<h2>Configuration</h2>"
    text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
    yield f"<pre>{html.escape(text)}</pre>"


class Places(dict[str, int]):
    """The first files that show images, numbered as they are on the page; slices of a volume share one."""

    def __init__(self) -> None:
        self.seen = array("q")  # hashes of all of them

    def add(self, file: str) -> bool:
        """Whether it is on the page and was not before."""
        self.seen.append(hash(file))
        if file in self or len(self) == PANELS:
            return False
        self[file] = len(self)
        return True

    @property
    def others(self) -> int:
        """How many files are not on the page."""
        return len(np.unique(np.asarray(self.seen))) - len(self)


def conclude(results: Mapping[str, Results]) -> str:
    """Summaries and reports of finished folders, by task and solver; returns the table as text."""
    table = {}
    for name, result in results.items():
        table[name] = result.summarise()
        write(result.folder)
    top = next(iter(results.values())).folder
    if len(results) > 1:
        top = top.parent
        grid(top, table)
    return f"{text(table)}\nresults in {top}"


def grid(folder: Path, table: Mapping[str, Mapping[str, Any]]) -> Path:
    """One summary of several tasks and solvers: summary.json, and report.html with links to each and their first images."""
    commit_json(folder / "summary.json", table)
    keys = _present(table.values())
    rows = [
        [_link(name), str(s["images"]), *(_mean(s, key) for key in keys)]
        for name, s in table.items()
    ]
    head = ["", "n", *(COLUMNS[key][0] for key in keys)]
    parts = [
        "<h2>Summary</h2>",
        _table(head, rows),
        "<h2>Images</h2>",
        f"<div class=gallery>{_table(*gallery.table(folder, list(table)))}</div>",
    ]
    return page.write(folder / "report.html", folder.name, parts)


def text(table: Mapping[str, Mapping[str, Any]]) -> str:
    """The same as plain text, one line per task and solver."""
    keys = _present(table.values())
    rows = [["", "n", *(COLUMNS[key][0] for key in keys)]]
    rows += [
        [name, str(s["images"]), *(_mean(s, key) for key in keys)] for name, s in table.items()
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths)))
        for row in rows
    )


def _present(summaries: Any) -> list[str]:
    return [key for key in COLUMNS if any(key in summary for summary in summaries)]


def _summary_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for key in _present([summary]):
        value, digits = summary[key], COLUMNS[key][1]
        spread = "" if value["interval_95"] is None else f"± {value['interval_95']:.{digits}f}"
        rows.append([COLUMNS[key][0], f"{value['mean']:.{digits}f}", spread, str(value["n"])])
    return rows


def _mean(summary: Mapping[str, Any], key: str) -> str:
    if key not in summary:
        return "–"
    value, digits = summary[key], COLUMNS[key][1]
    spread = "" if value["interval_95"] is None else f" ± {value['interval_95']:.{digits}f}"
    return f"{value['mean']:.{digits}f}{spread}"


def _cells(record: Mapping[str, Any], keys: Sequence[str], place: int | None) -> list[str]:
    """One image's line of the table. place: number of its picture, if it is on the page."""
    numbers = [_number(record.get(key), COLUMNS[key][1]) for key in keys]
    calls = [str(record.get(key, "")) for key in ("nfe", "vjps")]
    name = html.escape(record["image_id"])
    return [name if place is None else f"<a href='#image-{place}'>{name}</a>", *numbers, *calls]


def _histograms(spread: Mapping[str, Sequence[float]]) -> str:
    """How residuals and coverages spread over the images."""
    plots = [
        bars(values, COLUMNS[key][0], MARKS[key])
        for key, values in spread.items()
        if len(values) > 1
    ]
    return f"<div class=plots>{''.join(plots)}</div>"


def _picture(folder: Path, record: Mapping[str, Any], place: int) -> str:
    file = _file(record)
    if not file.endswith(".png"):
        return ""
    with PIL.Image.open(folder / file) as sheet:
        looks = _looks(panels.places(sheet), sheet.size)
    code = base64.b64encode((folder / file).read_bytes()).decode()
    name, notes = html.escape(record["image_id"]), html.escape("; ".join(record.get("notes", [])))
    caption = f"<figcaption>{name} <span class=note>{notes}</span></figcaption>"
    panel = f"<img alt='{name}' src='data:image/png;base64,{code}'>"
    return f"<figure class=image id=image-{place}>{caption}<div class=looks>{looks}</div>{panel}</figure>"


def _looks(boxes: Mapping[str, panels.Place], sheet: tuple[int, int]) -> str:
    """What was measured and what was restored under one slider, error and spread beside it: parts of the panel below.

    sheet: width and height of the panel.
    """
    alike = [
        name
        for name in BEFORE
        if name in boxes and _size(boxes[name]) == _size(boxes.get("restored", (0, 0, 0, 0)))
    ]
    if not alike:
        return ""
    crops = {
        name: _crop(box, sheet, "over" if name == alike[0] else "") for name, box in boxes.items()
    }
    parts = [sliding(crops[alike[0]], crops["restored"], (alike[0], "restored"))]
    parts += [
        f"<div><small>{name}</small>{crops[name]}</div>"
        for name in ("error", "std")
        if name in boxes
    ]
    return "".join(parts)


def _crop(box: panels.Place, sheet: tuple[int, int], kind: str) -> str:
    """A part of the panel at its own size, smaller where there is no room: all lengths but the width are relative."""
    (width, height), (left, top) = _size(box), box[:2]
    scale = f"background-size:{100 * sheet[0] / width:.4f}% {100 * sheet[1] / height:.4f}%"
    place = f"background-position:{100 * left / (sheet[0] - width):.4f}% {100 * top / (sheet[1] - height):.4f}%"
    return f"<div class='crop {kind}' style='width:{width}px;aspect-ratio:{width}/{height};{scale};{place}'></div>"


def _size(box: panels.Place) -> tuple[int, int]:
    left, top, right, bottom = box
    return right - left, bottom - top


def _file(record: Mapping[str, Any]) -> str:
    """What shows an image."""
    files = record["files"]
    return files.get("panels", files.get("recon", files.get("samples")))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "".join(_framed(head, rows))


def _framed(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table, row by row."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    yield f"<div class=scroll><table><tr>{top}</tr>"
    for cells in rows:
        yield "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
    yield "</table></div>"


def _link(name: str) -> str:
    return f"<a href='{html.escape(name)}/report.html'>{html.escape(name)}</a>"


def _number(value: Any, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
