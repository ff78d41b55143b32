"""The pages of docs/: they build without a warning, ask no other host for anything, and say what the data behind them say."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import PIL.Image
import pytest
import solver_gallery

pytest.importorskip("mkdocs")
pytest.importorskip("mkdocstrings")
ROOT = Path(__file__).parents[1]
FETCHED = {
    "script": "src",
    "img": "src",
    "link": "href",
    "iframe": "src",
    "source": "src",
    "use": "href",
}


class Fetched(HTMLParser):
    """Addresses that a browser asks for by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs) -> None:
        if address := dict(attrs).get(FETCHED.get(tag, "-")):
            self.found.append(address)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    where = tmp_path_factory.mktemp("site")
    words = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        str(where),
    ]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return where


def test_they_build_and_fetch_nothing_from_elsewhere(site: Path):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        parser = Fetched()
        parser.feed(page.read_text())
        assert [address for address in parser.found if re.match(r"(https?:)?//", address)] == [], (
            page.name
        )
    styles = "".join(path.read_text() for path in site.rglob("*.css"))
    assert re.findall(r"url\(['\"]?(?:https?:)?//[^)]*", styles) == []


def test_the_reference_comes_from_the_docstrings(site: Path):
    text = (site / "reference.html").read_text()
    assert "Draw images from the posterior" in text and "palimpsest.restore" in text


def test_every_solver_of_the_quality_page_is_in_its_plot():
    import plots_page

    for title, rows in plots_page.tables(ROOT / "docs/quality.md"):
        task, _, noise = title.partition(", ")
        tree = ElementTree.parse(ROOT / f"docs/plots/{task}-{noise.split()[-1]}.svg")
        names = [node.text for node in tree.iter("{http://www.w3.org/2000/svg}text")]
        assert sum(names.count(solver) for solver in {row["solver"] for row in rows}) == len(
            rows
        ), title


def test_the_page_on_choosing_a_solver_has_a_picture_of_each():
    page, picture = (ROOT / "docs/solvers.md").read_text(), ROOT / "docs/solvers.png"
    assert "](solvers.png)" in page and picture.stat().st_size < 300_000
    shown = set(PIL.Image.open(picture).info)
    rows = [line.split("|")[2] for line in page.splitlines() if line.startswith("| ")]
    chosen = {name for cell in rows for name in re.findall(r"`([a-z_]+)`", cell)}
    assert len(chosen) >= 8 and chosen <= shown == set(solver_gallery.CALLS)
