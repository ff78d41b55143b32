"""A result folder as one page that needs nothing else: numbers with their intervals, panels, and how it was made."""

import base64
import html
import json
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import PIL.Image
import yaml

from data.bounded_yaml import read_yaml
from data.files import commit, commit_json, json_lines
from solvers.run import figures, gallery, panels
from solvers.run.figures import sliding
from solvers.run.plots import bars
from solvers.run.record import COLUMNS
from solvers.run.results import Results

PANELS = 48  # on a page; the folder holds them all
BEFORE = (
    "classical",
    "measurement",
    "truth",
)  # what is compared with the restored image: the first of its size
MARKS = {"residual": 1.0, "coverage": 0.9}  # where they should lie
STYLE = """
:root { --text: #1c2024; --page: #fff; --soft: #f4f5f7; --line: #c9ced4; --dim: #59626b; --bad: #a40000; --link: #0b5cad }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e8ea; --page: #16191c; --soft: #22272b; --line: #454c53; --dim: #a3abb3; --bad: #ff8f8f; --link: #7db7ff }
}
:root { color-scheme: light dark } a { color: var(--link) }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--text); background: var(--page) }
body { margin: 2rem auto; max-width: 1640px; padding: 0 1rem }
h1, figcaption { overflow-wrap: anywhere }
h1 { font-size: 1.5rem; margin-bottom: .2rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } td, th { padding: .25rem .7rem; text-align: right }
td { white-space: nowrap }
th { border-bottom: 1px solid var(--line); font-weight: 600 } td:first-child, th:first-child { text-align: left }
tr:nth-child(even) td { background: var(--soft) } .scroll { overflow-x: auto }
.image { margin: 0 0 2rem; scroll-margin-top: 1rem }
.image:target figcaption { border-left: 4px solid #f59a23; padding-left: 8px }
.image img { max-width: 100%; display: block; margin: .5rem 0; border: 1px solid var(--line) }
.looks, .plots { display: flex; flex-wrap: wrap; gap: 14px; margin: .4rem 0 } .looks:empty { display: none }
.gallery img { display: block; max-width: none } .gallery td, .gallery th { text-align: left; vertical-align: top }
.gallery small { display: block; color: var(--dim) }
.looks { align-items: flex-end } .looks > * { max-width: 100% } .looks small { display: block; color: var(--dim) }
.crop { background-repeat: no-repeat; max-width: 100% }
pre { background: var(--soft); padding: .8rem; overflow: auto } .note { color: var(--dim) } .bad { color: var(--bad) }
details > summary { cursor: pointer; color: var(--dim) }
@media print { body { margin: 0; max-width: none } .image, tr { break-inside: avoid } pre { white-space: pre-wrap } }
@media print { .compare i, .compare input { display: none } }
"""
SCRIPT = """
for (const figure of document.querySelectorAll(".image")) {
  const panel = figure.querySelector("img"), looks = figure.querySelector(".looks")
  for (const one of looks ? looks.querySelectorAll(".crop") : []) one.style.backgroundImage = `url(${panel.src})`
  if (looks && looks.querySelector(".compare")) {
    const all = document.createElement("details"), word = document.createElement("summary")
    word.textContent = "panel"; all.append(word); panel.replaceWith(all); all.append(panel)
  }
}
addEventListener("beforeprint", () => document.querySelectorAll(".image details").forEach((one) => { one.open = true }))
"""
MEANING = """Metrics are in the range [0, 1]; intervals are 95 % of the mean. A residual of 1 means that the data are met to
the noise level; much more is unexplained data, much less is fitted noise. Research use, not for diagnosis."""


def write(folder: Path) -> Path:
    """report.html of a folder of results; returns its path."""
    summary, config = (
        json.loads((folder / "summary.json").read_text()),
        read_yaml((folder / "config.yaml").read_text(), folder / "config.yaml"),
    )
    keys = _present([summary])
    rows, pictures, bad = list[str](), list[str](), list[str]()
    places: dict[str, int] = {}  # of files on the page; slices of a volume share one
    spread = {key: array("d") for key in MARKS}
    for record in json_lines(folder / "records.jsonl"):  # one by one: a run may have a million
        if record["status"] != "ok":
            bad.append(
                f"<li>{html.escape(record['image_id'])}: {html.escape(record['status'])}</li>"
            )
            continue
        place = places.setdefault(_file(record), len(places))
        rows.append(_row(_cells(record, keys, place if place < PANELS else None)))
        if len(pictures) == place < PANELS:
            pictures.append(_picture(folder, record, place))
        for key, values in spread.items():
            values.extend([record[key]] if record.get(key) is not None else [])
    cost = f"{_number(summary['seconds_per_image'], 1)} s an image, peak memory {summary['peak_memory_mb']} MB"
    parts = [
        f"<p class=note>{summary['images']} images restored, {len(bad)} failed; {cost}. {MEANING}</p>",
        f"<p class=note>{html.escape(config['note'][:1].upper() + config['note'][1:])}.</p>"
        if config.get("note")
        else "",
        "<h2>Summary</h2>",
        _table(["", "mean", "95 % interval", "n"], _summary_rows(summary)),
        _histograms(spread),
        f"<h2 class=bad>Failed</h2><ul>{''.join(bad)}</ul>" if bad else "",
        "<h2>Panels</h2>",
        *pictures,
        f"<p class=note>{len(places) - PANELS} more in panels/.</p>"
        if len(places) > PANELS
        else "",
        "<h2>Images</h2>",
        _framed(
            ["image", *(COLUMNS[key][0] for key in keys), "network calls", "backward passes"], rows
        ),
        "<h2>Configuration</h2>",
        f"<pre>{html.escape(yaml.safe_dump(config, sort_keys=False, allow_unicode=True))}</pre>",
    ]
    return page(folder / "report.html", folder.name, parts)


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
    return page(folder / "report.html", folder.name, parts)


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
    sheet = PIL.Image.open(folder / file)
    code, looks = (
        base64.b64encode((folder / file).read_bytes()).decode(),
        _looks(panels.places(sheet), sheet.size),
    )
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


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return _framed(head, [_row(row) for row in rows])


def _row(cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _framed(head: Sequence[str], rows: Sequence[str]) -> str:
    top = "".join(f"<th>{cell}</th>" for cell in head)
    return f"<div class=scroll><table><tr>{top}</tr>{''.join(rows)}</table></div>"


def _link(name: str) -> str:
    return f"<a href='{html.escape(name)}/report.html'>{html.escape(name)}</a>"


def _number(value: Any, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def page(path: Path, title: str, parts: Sequence[str]) -> Path:
    """An HTML file that needs nothing else."""
    view = "<meta name=viewport content='width=device-width, initial-scale=1'>"
    head = f"<!doctype html><html lang=en><meta charset=utf-8>{view}<title>{html.escape(title)}</title>"
    style = f"<style>{STYLE}{figures.STYLE}</style>"
    body = [f"<h1>{html.escape(title)}</h1>", *parts, f"<script>{SCRIPT}</script>", "</html>"]
    commit(path, "\n".join([head, style, *body]).encode(errors="xmlcharrefreplace"))
    return path
