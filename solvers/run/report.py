"""A result folder as one page that needs nothing else: numbers with their intervals, panels, and how it was made."""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from data.files import commit, commit_json, json_lines, read_yaml
from solvers.run.record import COLUMNS
from solvers.run.results import Results

PANELS = 48  # on a page; the folder holds them all
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1c2024; background: #fff }
body { margin: 2rem auto; max-width: 1640px; padding: 0 1rem }
h1 { font-size: 1.5rem; margin-bottom: .2rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } td, th { padding: .25rem .7rem; text-align: right }
td { white-space: nowrap }
th { border-bottom: 1px solid #888; font-weight: 600 } td:first-child, th:first-child { text-align: left }
tr:nth-child(even) td { background: #f4f5f7 } .scroll { overflow-x: auto }
figure { margin: 0 0 1.2rem } img { max-width: 100%; display: block; margin: .3rem 0; border: 1px solid #ddd }
pre { background: #f4f5f7; padding: .8rem; overflow: auto } .note { color: #59626b } .bad { color: #a40000 }
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
    rows, pictures, bad = [], [], []
    shown: set[str] = set()  # slices of a volume share a panel
    for record in json_lines(folder / "records.jsonl"):  # one by one: a run may have a million
        if record["status"] != "ok":
            bad.append(f"<li>{html.escape(record['image_id'])}: {html.escape(record['status'])}</li>")
            continue
        rows.append(_row(_cells(record, keys)))
        if (file := _file(record)) not in shown and len(shown) < PANELS:
            pictures.append(_picture(folder, record))
        shown.add(file)
    cost = f"{_number(summary['seconds_per_image'], 1)} s an image, peak memory {summary['peak_memory_mb']} MB"
    parts = [
        f"<p class=note>{summary['images']} images restored, {len(bad)} failed; {cost}. {MEANING}</p>",
        f"<p class=note>{html.escape(config['note'][:1].upper() + config['note'][1:])}.</p>" if config.get("note") else "",
        "<h2>Summary</h2>",
        _table(["", "mean", "95 % interval", "n"], _summary_rows(summary)),
        f"<h2 class=bad>Failed</h2><ul>{''.join(bad)}</ul>" if bad else "",
        "<h2>Panels</h2>",
        *pictures,
        f"<p class=note>{len(shown) - PANELS} more in panels/.</p>" if len(shown) > PANELS else "",
        "<h2>Images</h2>",
        _framed(["image", *(COLUMNS[key][0] for key in keys), "network calls", "backward passes"], rows),
        "<h2>Configuration</h2>",
        f"<pre>{html.escape(yaml.safe_dump(config, sort_keys=False, allow_unicode=True))}</pre>",
    ]
    return _page(folder / "report.html", folder.name, parts)


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
    """One summary of several tasks and solvers: summary.json, and report.html with links to each."""
    commit_json(folder / "summary.json", table)
    keys = _present(table.values())
    rows = [[_link(name), str(s["images"]), *(_mean(s, key) for key in keys)] for name, s in table.items()]
    parts = ["<h2>Summary</h2>", _table(["", "n", *(COLUMNS[key][0] for key in keys)], rows)]
    return _page(folder / "report.html", folder.name, parts)


def text(table: Mapping[str, Mapping[str, Any]]) -> str:
    """The same as plain text, one line per task and solver."""
    keys = _present(table.values())
    rows = [["", "n", *(COLUMNS[key][0] for key in keys)]]
    rows += [[name, str(s["images"]), *(_mean(s, key) for key in keys)] for name, s in table.items()]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))) for row in rows)


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


def _cells(record: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    """One image's line of the table."""
    numbers = [_number(record.get(key), COLUMNS[key][1]) for key in keys]
    calls = [str(record.get(key, "")) for key in ("nfe", "vjps")]
    return [html.escape(record["image_id"]), *numbers, *calls]


def _picture(folder: Path, record: Mapping[str, Any]) -> str:
    file = _file(record)
    if not file.endswith(".png"):
        return ""
    code = base64.b64encode((folder / file).read_bytes()).decode()
    name, notes = html.escape(record["image_id"]), html.escape("; ".join(record.get("notes", [])))
    caption = f"<figcaption>{name} <span class=note>{notes}</span></figcaption>"
    return f"<figure>{caption}<img alt='{name}' src='data:image/png;base64,{code}'></figure>"


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


def _page(path: Path, title: str, parts: Sequence[str]) -> Path:
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title><style>{STYLE}</style>"
    page = "\n".join([head, f"<h1>{html.escape(title)}</h1>", *parts, "</html>"])
    commit(path, page.encode(errors="xmlcharrefreplace"))
    return path
