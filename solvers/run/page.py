"""An HTML page that needs nothing else: its look in light, dark and on paper, and the script of its sliders."""

import html
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from data.files import replacing, unwritable
from solvers.run import figures

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
.plots > div { flex: 0 1 460px } .plots { margin-bottom: 1.2rem }
.gallery img { display: block; max-width: none } .gallery td, .gallery th { text-align: left; vertical-align: top }
.gallery small { display: block; color: var(--dim) }
.looks { align-items: flex-end } .looks > * { max-width: 100% } .looks small { display: block; color: var(--dim) }
.crop { background-repeat: no-repeat; max-width: 100% }
pre { background: var(--soft); padding: .8rem; overflow: auto } .note { color: var(--dim) } .bad { color: var(--bad) }
details > summary { cursor: pointer; color: var(--dim) }
@media print {
  body { margin: 0; max-width: none } pre { white-space: pre-wrap } .compare i, .compare input { display: none }
  h2, figcaption { break-after: avoid } .image, .plots > *, tr { break-inside: avoid }
  .looks > div { max-width: 31% } .image img { max-height: 22cm }
  .scroll { overflow: visible } .gallery img { width: 100% }
  table:has(th:nth-child(8)) :is(td, th) { font-size: 6pt; padding: 2px 3px }
}
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


def write(path: Path, title: str, parts: Iterable[str]) -> Path:
    """An HTML file that needs nothing else, written part by part as they come, wholly or not at all.

    Raises Refusal (full disk, no rights).
    """
    view = "<meta name=viewport content='width=device-width, initial-scale=1'>"
    head = f"<!doctype html><html lang=en><meta charset=utf-8>{view}<title>{html.escape(title)}</title>"
    style = f"<style>{STYLE}{figures.STYLE}</style>"
    begin, end = (
        (head, style, f"<h1>{html.escape(title)}</h1>"),
        f"<script>{SCRIPT}</script></html>",
    )
    of_others = list[OSError]()  # met while a part was made, not while it was written

    def made() -> Iterator[str]:
        try:
            yield from parts
        except OSError as error:
            of_others.append(error)
            raise

    try:
        with replacing(path) as file:
            for part in chain(begin, made(), [end]):
                file.write(part.encode(errors="xmlcharrefreplace") + b"\n")
    except OSError as error:
        if error in of_others:
            raise
        raise unwritable(path, error) from error
    return path
