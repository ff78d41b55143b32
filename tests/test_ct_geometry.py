"""Real CT geometries against ASTRA, against integrals known by formula, and against each mistake that could be made."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.interpolate import RegularGridInterpolator
from scipy.ndimage import gaussian_filter

from solvers.operators import GeometryCT
from solvers.operators.ct_fbp import filtered_backprojection, redundancy
from solvers.operators.ct_geometry import Geometry
from solvers.operators.line_integrals import Product
from solvers.operators.projection import joseph
from tests.sectors import WATER, mu_of, wedges

H, W = 56, 64


def turn(views: int, arc: float = 360.0, start: float = 0.0) -> tuple[float, ...]:
    return tuple(np.radians(start + np.arange(views) * arc / views).tolist())


GEOMETRIES = {
    "parallel": Geometry(turn(15, 180), 80, 1.2, 1.3),
    "parallel, off, to the left": Geometry(
        turn(15, 180, 17), 83, 1.2, 1.3, offset=2.25, flip=True, centre=(3.0, -4.0)
    ),
    "fan, flat": Geometry(turn(15), 80, 2.2, 1.3, 200.0, 350.0),
    "fan, quarter shift, to the left, clockwise": Geometry(
        turn(15, -360), 80, 2.2, 1.3, 200.0, 350.0, offset=0.25, flip=True, centre=(3.0, -4.0)
    ),
    "fan, curved": Geometry(turn(15, 230), 80, 2.2, 1.3, 200.0, 350.0, True, 0.25),
}
MISTAKES = {
    "half a bin": lambda g: replace(g, offset=g.offset + 0.5),
    "half a pixel": lambda g: replace(g, centre=(g.centre[0] + g.pixel_size / 2, g.centre[1])),
    "direction": lambda g: g.with_angles([-a for a in g.angles]),
    "handedness of the bins": lambda g: replace(g, flip=not g.flip),
    "a detector of the other shape": lambda g: (
        replace(g, curved=not g.curved) if g.fan else replace(g, pitch=1.01 * g.pitch)
    ),
}


def picture() -> np.ndarray:
    """Nothing symmetrical in it."""
    rng, (y, x) = np.random.default_rng(0), np.mgrid[:H, :W]
    image = np.where(((y - 28) / 24) ** 2 + ((x - 32) / 28) ** 2 < 1, 0.02, 0.0)
    for _ in range(9):
        cy, cx, r, value = (
            rng.uniform(14, 42),
            rng.uniform(14, 50),
            rng.uniform(2, 6),
            rng.uniform(-0.01, 0.02),
        )
        image[(y - cy) ** 2 + (x - cx) ** 2 < r * r] += value
    return gaussian_filter(image, 1.0)


def astra_projections(astra, g: Geometry, image: np.ndarray) -> np.ndarray:
    """Siddon's line integrals by ASTRA, every ray told as its own view, from the words of the YAML alone."""
    rows, p = [], g.pixel_size
    for beta in g.angles:
        n, e = (
            np.array([math.cos(beta), math.sin(beta)]),
            np.array([-math.sin(beta), math.cos(beta)]),
        )
        for k in range(g.bins):
            u = (k - (g.bins - 1) / 2 - g.offset) * g.pitch * (-1 if g.flip else 1)
            if not g.fan:
                rows.append([*e, *(u * n), *(g.pitch * n)])
                continue
            gamma = u / g.source_to_detector
            on_arc = g.source_to_detector * (math.cos(gamma) * e + math.sin(gamma) * n)
            rows.append(
                [
                    *(-g.source_to_axis * e),
                    *(
                        -g.source_to_axis * e
                        + (on_arc if g.curved else g.source_to_detector * e + u * n)
                    ),
                    *(g.pitch * n),
                ]
            )
    x, y = g.centre
    h, w = image.shape[0] / 2 * p, image.shape[1] / 2 * p
    volume = astra.create_vol_geom(*image.shape, x - w, x + w, y - h, y + h)
    vectors = astra.create_proj_geom("fanflat_vec" if g.fan else "parallel_vec", 1, np.array(rows))
    projector = astra.create_projector("line_fanflat" if g.fan else "line", vectors, volume)
    _, sinogram = astra.create_sino(image.astype(np.float32), projector)
    return sinogram.reshape(g.views, g.bins)


def ours(g: Geometry, image: np.ndarray) -> np.ndarray:
    return (joseph(g, *image.shape) @ image.ravel()).reshape(g.views, g.bins)


def away(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.parametrize("name", GEOMETRIES)
def test_projections_are_astras(name):
    """To 1 %: Joseph's interpolation and Siddon's lengths differ by 0.3 to 0.6 % on a picture of 64 pixels."""
    astra, image, g = pytest.importorskip("astra"), picture(), GEOMETRIES[name]
    theirs = astra_projections(astra, g, image)
    assert away(ours(g, image), theirs) < 0.01
    for mistake, made in MISTAKES.items():
        wrong = made(g)
        if not g.fan and mistake.startswith("a detector"):
            continue
        assert away(ours(wrong, image), theirs) > 0.01, mistake


def psnr(image: np.ndarray, truth: np.ndarray) -> float:
    return -10 * math.log10(float(((image - truth) ** 2).mean()) / float(np.ptp(truth)) ** 2)


def backprojected(g: Geometry, sinogram: np.ndarray, window: str = "ramp") -> np.ndarray:
    y = torch.from_numpy(np.ascontiguousarray(sinogram, np.float64))[None, None]
    return filtered_backprojection(g, y, H, W, window)[0, 0].numpy()


def astra_fbp(astra, sinogram: np.ndarray, angles, pitch: float, window: str) -> np.ndarray:
    p = 1.3
    volume = astra.create_vol_geom(H, W, -W / 2 * p, W / 2 * p, -H / 2 * p, H / 2 * p)
    rays = astra.create_proj_geom("parallel", pitch, sinogram.shape[1], np.array(angles))
    config = astra.astra_dict("FBP")
    config["ProjectorId"] = astra.create_projector("linear", rays, volume)
    config["ProjectionDataId"] = astra.data2d.create("-sino", rays, sinogram.astype(np.float32))
    config["ReconstructionDataId"] = image = astra.data2d.create("-vol", volume)
    config["option"] = {"FilterType": window}
    astra.algorithm.run(astra.algorithm.create(config))
    return astra.data2d.get(image)


@pytest.mark.parametrize(
    "window, theirs", [("ramp", "ram-lak"), ("hann", "hann"), ("cosine", "cosine")]
)
def test_backprojection_is_no_worse_than_astras(window, theirs):
    """ASTRA's own, of parallel beams, is its projector's adjoint and blurs a little: ours may be better, not 0.1 dB worse."""
    astra, image = pytest.importorskip("astra"), picture()
    g = Geometry(turn(90, 180), 110, 1.0, 1.3)
    sinogram = astra_projections(astra, g, image)
    reference = psnr(astra_fbp(astra, sinogram, g.angles, 1.0, theirs), image)
    assert psnr(backprojected(g, sinogram, window), image) > reference - 0.1
    assert psnr(backprojected(replace(g, offset=0.5), sinogram, window), image) < reference - 0.1


@pytest.mark.parametrize("name", ["flat", "curved", "to the left", "short scan", "displaced"])
def test_fan_beams_backproject_like_parallel_ones(name):
    """ASTRA has no FBP of fans without an accelerator: the same picture's parallel beams are its reference."""
    astra, image = pytest.importorskip("astra"), picture()
    angles = turn(120, 212) if name == "short scan" else turn(180)
    settings: dict = {
        "curved": name == "curved",
        "flip": name == "to the left",
        "offset": -20.0 if name == "displaced" else 0.25,
    }
    g = Geometry(angles, 100 if name == "displaced" else 130, 1.6, 1.3, 200.0, 350.0, **settings)
    parallel = Geometry(turn(90, 180), 110, 1.0, 1.3)
    reference = psnr(
        astra_fbp(
            astra, astra_projections(astra, parallel, image), parallel.angles, 1.0, "ram-lak"
        ),
        image,
    )
    sinogram = ours(g, image)
    assert psnr(backprojected(g, sinogram), image) > reference - 0.1
    assert psnr(backprojected(replace(g, offset=g.offset + 0.5), sinogram), image) < reference - 0.1


def test_a_fan_is_parallel_beams_in_another_order():
    """Ray (beta, gamma) is the parallel ray (beta - gamma, R sin gamma); so rebinning one gives the other."""
    image = picture()
    g = Geometry(turn(180), 161, 1.4, 1.3, 200.0, 350.0, True)
    place = np.linspace(-30, 30, 41)
    parallel = Geometry(turn(12), 41, 1.5, 1.3)
    sinogram, gamma = ours(g, image), g.fan_angles
    wide = np.concatenate([sinogram, sinogram, sinogram])
    beta = np.concatenate([np.array(g.angles) + 2 * math.pi * k for k in (-1, 0, 1)])
    at = np.arcsin(place / 200.0)
    asked = np.stack(np.broadcast_arrays(np.array(parallel.angles)[:, None] + at, at), -1)
    assert away(RegularGridInterpolator((beta, gamma), wide)(asked), ours(parallel, image)) < 0.01


def test_shares_of_a_line_sum_to_one():
    """Of a full turn every line is measured twice, exactly where a view stands opposite."""
    g = Geometry(turn(36), 21, 1.0, 1.0, 100.0, 150.0, True)
    assert np.allclose(redundancy(g), 0.5)
    short = replace(g, angles=turn(40, 250))
    share = redundancy(short)
    assert share.min() >= 0 and share.max() <= 1 + 1e-9 and share[0].max() < 0.1


@pytest.mark.parametrize(
    "name", ["parallel", "fan", "curved, to the left, clockwise", "short scan"]
)
def test_wedges_have_their_hounsfield_units(name):
    """Wedges in water, whose integrals a formula gives: within 5 HU where no edge is near."""
    fan = {"source_to_axis": 541.0, "source_to_detector": 949.0}
    g = {
        "parallel": Geometry(turn(150, 180), 200, 1.28, 2.0),
        "fan": Geometry(turn(200), 200, 2.24, 2.0, **fan, offset=0.25),
        "curved, to the left, clockwise": Geometry(
            turn(200, -360), 200, 2.24, 2.0, **fan, curved=True, flip=True
        ),
        "short scan": Geometry(turn(150, 225), 200, 2.24, 2.0, **fan),
    }[name]
    y = torch.from_numpy(wedges(g))[None, None]
    mu = filtered_backprojection(g, y, 110, 120, "ramp")[0, 0].numpy()
    for hu, inside in mu_of(110, 120, 2.0):
        assert abs(1000 * (mu[inside].mean() / WATER - 1) - hu) < 5, hu


def test_products_of_great_matrices_are_the_same(monkeypatch):
    """A matrix that is not kept is made piece by piece."""
    g, size = replace(GEOMETRIES["fan, curved"], bins=40), (14, 16)
    x = torch.randn(2, 3, 14 * 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.randn(
        2, 3, g.views * g.bins, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    whole = [Product.apply(x, g, size, False), Product.apply(y, g, size, True)]
    monkeypatch.setattr("solvers.operators.line_integrals.STORED", 15_000)
    pieces = [Product.apply(x, g, size, False), Product.apply(y, g, size, True)]
    for a, b in zip(whole, pieces):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"source_to_axis": 400.0}, "must be more than source_to_axis"),
        ({"source_to_axis": None}, "source_to_axis"),
        ({"pitch": 0.0}, "pitch"),
        ({"pitch": 200.0, "curved": True}, "90 degrees"),
        ({"angles": ()}, "0 views"),
        ({"offset": math.nan}, "finite"),
    ],
)
def test_what_is_no_geometry_is_one_line(settings, said):
    with pytest.raises(ValueError, match=said):
        replace(GEOMETRIES["fan, flat"], **settings)


def test_the_source_stands_outside_the_image():
    with pytest.raises(ValueError, match="beyond the source"):
        GeometryCT(GEOMETRIES["fan, flat"]).shape_out((1, 400, 64))


def test_bad_bins_are_filled_for_the_cheap_answer():
    """Linear data along the bins stay as they are, whichever bins are left out."""
    g = GEOMETRIES["fan, flat"]
    good = torch.ones(1, 1, g.views, g.bins)
    good[..., [0, 5, 6, 79]] = 0
    from solvers.operators.ct_measured import filled

    y = torch.linspace(1, 2, g.bins).expand(1, 1, g.views, g.bins)
    found = filled(y * good, good)
    torch.testing.assert_close(found[..., 1:79], y[..., 1:79], rtol=0, atol=1e-6)
    assert float((found - y).abs().max()) < 0.02
