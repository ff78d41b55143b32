"""What a reader looks at: nothing cut, overlapping or misleading; without a browser."""

import re
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tiny

import palimpsest as P
from data import formats
from solvers.run import figures, plots


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return tiny.world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def words(world: Path) -> dict:
    return tiny.asked(world)


@pytest.mark.parametrize("most", [1.0, 0.005, 1e5, 123456.0, -0.0005])
def test_numbers_of_an_axis_do_not_run_into_its_name(most: float):
    drawing = plots.curves({"a": ([0, 4000], [most / 3, most])}, "step", "learning rate")
    numbers = re.findall(r"<text x='([\d.]+)' y='[\d.]+' text-anchor='end'>(.*?)</text>", drawing)
    starts = [float(x) - plots.LETTER * len(said) for x, said in numbers]
    assert numbers and min(starts) >= 13  # the name's line is 11 high and stands on 11


def test_the_last_number_of_an_axis_is_not_cut():
    drawing = plots.curves({"a": ([0, 400_000], [0, 1])}, "step", "loss")
    numbers = re.findall(r"<text x='([\d.]+)' y='200' text-anchor='middle'>(.*?)</text>", drawing)
    ends = [float(x) + plots.LETTER * len(said) / 2 for x, said in numbers]
    assert numbers[-1][1] == "400000" and max(ends) <= 460.1


@pytest.mark.parametrize("count", [2, 10, 12, 30])
def test_every_curve_has_a_colour_of_its_own(count: int):
    lines = {f"sigma {i}": ([0, 1], [i, i + 1]) for i in range(count)}
    drawn = re.findall("stroke='(.*?)'", plots.curves(lines))
    told = re.findall("color:(.*?)'", plots.legend(lines))
    assert len(set(drawn)) == count and drawn == told


def test_a_long_image_is_neither_a_line_nor_a_tower():
    assert figures.size((256, 256)) == "aspect-ratio:1;max-width:512px"
    assert figures.size((1, 300, 7)) == "aspect-ratio:0.25;max-width:160px"
    assert figures.size((7, 300)) == "aspect-ratio:4;max-width:512px"


def test_draws_that_are_alike_are_no_map_of_the_spread(world: Path, words: dict):
    scan = world / "scans/scan0.png"
    alike = P.restore(scan, draws=3, **words | {"solver": "pnp", "steps": 2})
    assert "the draws are alike" in alike.html() and "id=std" not in alike.html()
    assert "polygon" not in alike.profile(3) and "alike" in alike.profile(3)
    assert alike.std.max() < 1e-5
    apart = P.restore(scan, draws=3, **words)
    assert "alike" not in apart.html() + apart.profile(3) and "id=std" in apart.html()
    assert apart.picture.width > alike.picture.width  # a map more


def test_pictures_come_and_go_as_zip(words: dict, tmp_path: Path):
    grey = np.random.default_rng(0).integers(0, 255, (3, 16, 16)).astype(np.uint8)
    with zipfile.ZipFile(tmp_path / "scan.zip", "w") as archive:
        for i, one in enumerate(grey):
            PIL.Image.fromarray(one).save(tmp_path / "one.png")
            archive.write(tmp_path / "one.png", f"Mustermann/{i}.png")
    result = P.restore(tmp_path / "scan.zip", **words)
    result.save(tmp_path / f"restored{result.suffix}")
    found = [formats.read(tmp_path / "restored.zip", i).pixels[0].numpy() for i in range(3)]
    assert np.abs(np.stack(found) - result.image).max() <= 0.5  # rounded to eight bits
    with zipfile.ZipFile(tmp_path / "restored.zip") as archive:
        assert not [name for name in archive.namelist() if "Mustermann" in name]


def test_the_curve_of_a_run_is_over_seconds(world: Path, words: dict):
    *seen, _ = P.follow(world / "scans/scan0.png", every=0.01, **words | {"steps": 8})
    last = seen[-1]
    assert len(last.seconds) == len(last.residuals) > 0 and last.seconds == sorted(last.seconds)
    assert "seconds" in last.figures() and last.figures() in last.html()
