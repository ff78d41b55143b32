"""The coherence of errors in neighbouring slices: found of stacks that have one, taken by volume priors by their spacing."""

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from prior_figures import DEEP, STACKS, spread, stacks, with_coherence
from prior_figures import ROWS as LEVELS
from test_volume import any_size

from data.files import Refusal
from data.manifest import Row
from ldm import checkpoints, neighbours, spectra
from ldm.neighbours import KNOTS
from ldm.resize import solid
from ldm.volume import LENGTH, VolumePrior

SHARES = np.linspace(0.2, 1, KNOTS)
FALLS = np.linspace(0.9, 0.3, KNOTS)
TABLE = [[0.1, *SHARES / 2, *FALLS], [10.0, *SHARES, *FALLS]]


def filtered(white: np.ndarray, power: np.ndarray) -> np.ndarray:
    """White noise [D,H,W] with this power at every frequency of the volume."""
    return np.fft.ifftn(np.fft.fftn(white) * np.sqrt(power)).real


def test_a_stack_has_the_coherence_that_was_stated():
    """The correlation between slices d apart, frequency by frequency, is c q^(d distance), up to what wraps around."""
    power = neighbours.along(TABLE, 10.0, 256, 1.5, 32, 48).numpy()
    found = np.fft.ifft(power, axis=0).real
    frequency = np.log(spectra.radius(32, 48))
    c, q = (np.interp(frequency, np.log(spectra.KNOTS), part) for part in (SHARES, FALLS))
    np.testing.assert_allclose(found[0], 1, atol=1e-12)
    for d in (1, 2, 5):
        np.testing.assert_allclose(found[d], c * q ** (1.5 * d), atol=1e-9)


def test_between_levels_it_goes_over_and_beyond_them_it_stays():
    at = [neighbours.along(TABLE, s, 8, 1.0, 16, 16) for s in (0.01, 0.1, 1.0, 10.0, 100.0)]
    torch.testing.assert_close(at[0], at[1], rtol=0, atol=0)
    torch.testing.assert_close(at[3], at[4], rtol=0, atol=0)
    torch.testing.assert_close(at[2], (at[1] + at[3]) / 2)  # shares go over, falls are the same


def test_what_is_measured_is_what_the_errors_have():
    """Shares and falls of errors that have c q^d, within five standard errors of their correlations."""
    power = neighbours.along(TABLE, 10.0, 512, 1.0, 64, 64).numpy()
    rng = np.random.default_rng(0)
    errors = [filtered(rng.standard_normal(power.shape), power) for _ in range(2)]
    found = neighbours.measured(torch.from_numpy(e)[:, None] for e in errors)
    count = np.bincount(spectra.nearest(64, 64).flatten().numpy(), minlength=KNOTS)
    distance = np.arange(1, neighbours.APART + 1)[:, None]
    octave = np.interp(np.log(spectra.radius(64, 64)), np.log(spectra.KNOTS), np.arange(KNOTS))
    knot = spectra.nearest(64, 64).numpy()
    for k in np.flatnonzero(count):
        at = octave[knot == k]
        c, q = (np.interp(at, np.arange(KNOTS), part) for part in (SHARES, FALLS))
        wanted = (c * q**distance).mean(1)
        # slices of an autoregression are worth (1 - q) / (1 + q) of as many independent ones, frequencies half (conjugates)
        worth = 2 * 500 * count[k] * (1 - q.max()) / (1 + q.max()) / 2
        assert np.abs(found[:, k] - wanted).max() < 5 / np.sqrt(worth)
    row = neighbours.row(10.0, SHARES * FALLS**distance)
    np.testing.assert_allclose(row[1 : 1 + KNOTS], SHARES, atol=0.02)  # falls are on a grid of 0.02
    np.testing.assert_allclose(row[1 + KNOTS :], FALLS, atol=0.011)


def test_a_volume_takes_it_by_its_spacing():
    prior = any_size((1, 8, 8))
    prior.coherence = TABLE
    spacing = (3.0, 1.0, 1.0)
    volume = VolumePrior(prior, (1, 6, 8, 8), ("axial",), spacing)
    plane = prior.density(10.0)
    wanted = neighbours.along(TABLE, 10.0, 6, 3.0, 8, 8) * plane
    torch.testing.assert_close(volume.density(10.0), wanted)
    found, _ = solid(prior, (1, 6, 8, 8), spacing)  # as the program makes it
    torch.testing.assert_close(found.density(10.0), wanted)
    independent = VolumePrior(prior, (1, 6, 8, 8), ("axial",), spacing, length=0.0)
    torch.testing.assert_close(independent.density(10.0), plane.expand(6, 8, 8))


def test_coronal_slices_are_apart_by_their_rows():
    prior = any_size((1, 8, 8))
    prior.coherence = TABLE
    volume = VolumePrior(prior, (1, 6, 8, 10), ("coronal",), (2.0, 3.0, 2.0))
    plane = VolumePrior(prior, (1, 8, 6, 10), length=0.0).density(10.0)[:1]
    wanted = neighbours.along(TABLE, 10.0, 8, 1.5, 6, 10) * plane
    torch.testing.assert_close(volume.density(10.0), wanted.movedim(0, 1))


def test_where_nobody_measured_it_a_length_is_stated():
    prior = any_size((1, 8, 8))
    one = VolumePrior(prior, (1, 6, 8, 8)).density(0.5)
    stated = VolumePrior(prior, (1, 6, 8, 8), length=LENGTH).density(0.5)
    torch.testing.assert_close(one, stated)
    prior.coherence = TABLE
    found, _ = solid(prior, (1, 6, 8, 8))  # nor where nobody knows how far slices are apart
    torch.testing.assert_close(found.density(0.5), stated)


def test_oblong_pixels_count_as_square_ones_of_their_area():
    """The slices' distance is known where no plane's pixels are square, and noise is tied by millimetres there too."""
    prior = any_size((1, 8, 8))
    prior.coherence = TABLE
    volume, note = solid(prior, (1, 6, 8, 8), (3.0, 1.0, 4.0), coupling=1.5)
    assert volume.planes == ("axial",) and "1 x 4 mm" in note
    wanted = neighbours.along(TABLE, 10.0, 6, 1.5, 8, 8) * prior.density(10.0)
    torch.testing.assert_close(volume.density(10.0), wanted)
    assert volume.rho == pytest.approx(np.exp(-2))


@pytest.mark.parametrize(
    "row",
    [
        [0.1] * 5,
        [0.0, *[0.5] * 32],
        [0.1, *[0.5] * 31, 1.5],
        [0.1, *[0.5] * 31, np.nan],
        [0.1, *[0.5] * 31, 1.0],
    ],
)
def test_a_table_that_is_none_is_one_line(row):
    with pytest.raises(Refusal, match="coherence: a row is a noise level above 0"):
        neighbours.check([row])


def test_neighbours_are_those_whose_names_go_on_by_one():
    def rows(names: list[str]) -> list[Row]:
        return [Row(f"{name}.png", name, name.split("-")[0], "train") for name in names]

    ax = [f"S1-ax-{i:03d}" for i in range(40)]
    named = rows(["A-ax-000", *ax, *[f"S1-cor-{i:03d}" for i in range(0, 60, 2)], "S1-x"])
    found = stacks(named, "S1")
    assert [len(stack) for stack in found] == [DEEP] * STACKS
    assert all(named[i].image_id in ax for stack in found for i in stack)
    assert stacks(named, "A") == []


def test_a_prior_is_published_with_it(tmp_path: Path):
    """Measured at the levels of the prior, written with it, and loaded again; without such slices it is one line."""
    lines = ["path,image_id,subject,split"]
    for i in range(STACKS * DEEP):
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,S1-ax-{i:03d},S1,train")
    source = tmp_path / "train.csv"
    source.write_text("\n".join(lines) + "\n")
    described = checkpoints.describe(tiny.folder(tmp_path / "tiny", tiny.pixel(16)))
    with torch.no_grad():
        found = with_coherence(described, source, ["S1"])
    checkpoints.export(found, tmp_path / "new", half=True)
    prior = checkpoints.load(tmp_path / "new")
    levels = [row[0] for row in prior.coherence]
    ends = min(levels), max(levels)
    assert ends == pytest.approx((prior.sigma_min, prior.sigma_max), rel=0.005)  # three digits
    assert len(levels) == LEVELS
    with pytest.raises(Refusal, match="--cubes S2: .*train.csv has no 20 neighbouring slices"):
        with_coherence(described, source, ["S2"])
    patches = checkpoints.describe(tiny.folder(tmp_path / "patches", tiny.patch(16)))
    with pytest.raises(Refusal, match="--cubes: volumes take a pixel prior of whole slices alone"):
        with_coherence(patches, source, ["S1"])


def test_slices_measured_of_a_subject_lie_as_far_apart_as_they_can():
    assert spread(range(61)) == [0, 10, 20, 30, 40, 50]
    assert spread(range(8)) == [0, 1, 2, 4, 5, 6]  # and not the first six
    assert spread(range(3)) == [0, 1, 2]
