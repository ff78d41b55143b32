"""Measurements, noise and images that cannot belong together are told, with the scale that would fit."""

import numpy as np
import pytest
import tiny
import torch
from tiny import records, refusal

import sample
from data import formats
from data.ranges import DEPTH_8
from data.seeding import Noise
from solvers import units
from solvers.operators import (
    CT,
    CartesianMRI,
    Denoising,
    PhaseRetrieval,
    RandomInpainting,
    SuperResolution,
)
from solvers.operators.base import Operator
from solvers.operators.kspace import to_complex, to_real
from solvers.operators.volume import Slicewise
from solvers.problem import Gaussian, from_measurement, measure
from solvers.run.reading import rescaled
from solvers.run.scans import Scan
from tests.operator_list import LINEAR, NONLINEAR

SHAPE = (1, 32, 32)


def body(level: float = 0.8) -> torch.Tensor:
    """Something of several grey levels on black, [1,1,32,32] in [-1, 1]."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
    u = level * (x**2 + 1.4 * y**2 < 0.5) * (0.6 + 0.4 * torch.cos(5 * x))
    return (2 * u - 1)[None, None]


def measured(operator: Operator, factor: float, sigma_y: float, level: float = 0.8):
    """A user's file of what `operator` makes of the body with noise of sigma_y, times a factor; its problem."""
    noise = Noise(("scan",), "noise")
    drawn = operator.draw(SHAPE, noise)
    y = measure(drawn, body(level), sigma_y, noise).stored() * factor
    return y, drawn


OPERATORS = [
    SuperResolution(4),
    Denoising(),
    CT(20),
    CartesianMRI(),
    PhaseRetrieval(),
    RandomInpainting(),
]


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda o: type(o).__name__)
def test_orders_of_magnitude_are_told_with_the_scale_that_fits(operator):
    for factor in (3e-5, 1e-3, 1e3):
        y, drawn = measured(operator, factor, 0.01)
        problem = measure(drawn, body(), 0.01 * factor, Noise(("scan",), "noise"))
        bad = type(problem)(
            y - (problem.stored() - problem.y), drawn, Gaussian(0.01 * factor), ("scan",)
        )
        with pytest.raises(ValueError, match=r"^scan: its y .* would fit \(--scale") as error:
            units.check(bad)
        named = float(str(error.value).split("--scale ")[1].split(",")[0])
        assert 1 / 4 < named * factor < 4  # the disc is as bright as images are
        image = type(operator).__name__ in ("SuperResolution", "Denoising", "RandomInpainting")
        assert ("or --window full)" if image else "or auto)") in str(error.value)
    quiet = type(problem)(
        1e-6 * problem.stored() - (problem.stored() - problem.y), drawn, Gaussian(0.01), ("scan",)
    )
    with pytest.raises(
        ValueError, match=r"below its own noise: sigma_y 0.01; y times .* would fit"
    ):
        units.check(quiet)


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("level", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("sigma_y", [0.0, 0.01, 0.1])
def test_what_belongs_together_passes(operator, level, sigma_y):
    noise = Noise(("scan",), "noise")
    units.check(measure(operator.draw(SHAPE, noise), body(level), sigma_y, noise))


@pytest.mark.parametrize("case", LINEAR + NONLINEAR, ids=lambda case: case.name)
def test_no_operator_of_the_battery_is_doubted(case):
    drawn, noise = case.drawn(), Noise(("first", "second", "third"), "noise")
    units.check(measure(drawn, 0.7 * torch.ones(3, *case.shape, dtype=torch.float64), 0.05, noise))


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda o: type(o).__name__)
def test_an_empty_slice_is_noise_and_passes(operator):
    noise = Noise(("scan",), "noise")
    units.check(measure(operator.draw(SHAPE, noise), -torch.ones(1, *SHAPE), 0.05, noise))


def test_sigma_y_of_bytes_is_told():
    noise = Noise(("scan",), "noise")
    problem = measure(Denoising().draw(SHAPE, noise), body(), 25.5, noise)
    with pytest.raises(
        ValueError, match=r"sigma_y 25.5 drowns .* 25.5 in 0 to 255 is 0.2 in \[-1, 1\]"
    ):
        units.check(problem)
    with pytest.raises(
        ValueError, match="below its own noise: sigma_y 25.5; noise of 25.5 in 0 to 255 is 0.2"
    ):
        units.check(type(problem)(body(), problem.operator, Gaussian(25.5), ("scan",)))


@pytest.mark.parametrize(
    "operator", [CT(40), CartesianMRI(acceleration=2.0), CartesianMRI(complex_image=True)], ids=str
)
@pytest.mark.parametrize("factor", [3e-5, 1.0, 40.0])
def test_auto_takes_the_brightest_of_an_image_to_one(operator, factor):
    """Of 0.8 white to within a third, whatever the file's units: the cheap answers err by as much."""
    complex_image = getattr(operator, "complex_image", False)
    shape = (2, 32, 32) if complex_image else SHAPE
    x = torch.cat([(body() + 1) / 2, torch.zeros(1, *SHAPE)], 1) if complex_image else body()
    drawn = operator.draw(shape, Noise(("scan",), "mask"))
    y = measure(drawn, x, 0.001, Noise(("scan",), "noise")).stored() * factor
    assert float(units.scale(drawn, y, shape)[0]) * factor * 0.8 == pytest.approx(1, rel=0.34)


def test_auto_is_one_factor_for_a_stack_of_sinograms():
    shape, noise = (1, 3, 32, 32), Noise(("scan",), "noise")
    x = body()[:, :, None].expand(1, *shape)
    y = measure(Slicewise(CT(40)), x, 0.001, noise).stored()[0] * 40
    scan = Scan("scan", y, None, DEPTH_8, volume="scan")
    (found,) = rescaled([scan], CT(40), "auto", (1, 32, 32))
    assert found.scale * 40 * 0.8 == pytest.approx(1, rel=0.34)


def test_auto_is_no_answer_for_images():
    with pytest.raises(ValueError, match="y of SuperResolution is an image"):
        units.scale(
            SuperResolution(4).draw(SHAPE, Noise(("a",), "mask")), torch.zeros(1, 1, 8, 8), SHAPE
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """What a run of sample.py measured by CT, and the same files in other units."""
    where = tiny.world(tmp_path_factory.mktemp("world"))
    tiny.task(where / "ct.yaml", "CT", views=6, bins=24)
    assert sample.main(tiny.words(where, where / "run", task="ct", solver="daps")) == 0
    for factor in (1.0, 3e-5, 500.0):
        for path in sorted((where / "run/measurement").iterdir()):
            folder = where / f"units{factor:g}"
            folder.mkdir(exist_ok=True)
            np.save(folder / path.name, factor * np.load(path))
    return where


def again(world, out, factor: float, *more: str) -> int:
    return sample.main(
        tiny.words(
            world,
            out,
            "--measurements",
            "--data-root",
            f"{world}/units{factor:g}",
            *more,
            task="ct",
            solver="daps",
        )
    )


def test_measurements_in_other_units_are_refused_and_the_named_scale_mends_them(
    world, tmp_path, capsys
):
    """The image comes back in the file's own units, and so does y; to float32 rounding of y and the scale."""
    assert again(world, tmp_path / "one", 1) == 0
    expected = formats.read(tmp_path / "one/recon/scan0.npy").pixels
    for factor in (3e-5, 500.0):
        out = tmp_path / f"{factor:g}"
        assert again(world, out, factor) == 2 and "(--scale" in refusal(capsys)
        assert again(world, out, factor, "--scale", str(1 / factor)) == 0
        found = formats.read(out / "recon/scan0.npy").pixels
        torch.testing.assert_close(found / factor, expected, rtol=0, atol=1e-4)
        assert records(out)["scan0"]["scale"] == 1 / factor
        y, ours = (
            np.load(p)
            for p in (world / f"units{factor:g}/scan0.npy", out / "measurement/scan0.npy")
        )
        assert np.abs(y - ours).max() <= 1e-5 * np.abs(y).max()


def test_auto_is_each_scan_s_own_and_undone(world, tmp_path):
    assert again(world, tmp_path / "a", 3e-5, "--scale", "auto") == 0
    assert again(world, tmp_path / "b", 500, "--scale", "auto") == 0
    first, other = (records(tmp_path / name) for name in "ab")
    for name in first:
        assert first[name]["scale"] * 3e-5 == pytest.approx(other[name]["scale"] * 500, rel=1e-3)
        a, b = (
            formats.read(tmp_path / n / f"recon/{name}.npy").pixels / f
            for n, f in (("a", 3e-5), ("b", 500))
        )
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_a_task_in_bytes_is_refused_before_anything_is_solved(world, tmp_path, capsys):
    tiny.task(tmp_path / "loud.yaml", "Denoising", sigma_y=25.5)
    assert (
        sample.main(tiny.words(world, tmp_path / "out", "--task", str(tmp_path / "loud.yaml"))) == 2
    )
    assert "noise of 25.5 in 0 to 255 is 0.2 in [-1, 1]" in refusal(capsys)


@pytest.mark.parametrize(
    "words",
    [["--scale", "2"], ["--measurements", "--scale", "0"], ["--measurements", "--scale", "much"]],
)
def test_a_scale_is_a_number_or_auto_and_for_measurements(world, tmp_path, capsys, words):
    assert sample.main(tiny.words(world, tmp_path / "out", *words)) == 2
    assert "--scale" in refusal(capsys)


READINGS = {
    "real and imaginary parts exchanged": lambda k: 1j * k.conj(),
    "the complex conjugate": lambda k: k.conj(),
    "rows and columns exchanged": lambda k: k.mT,
    "rows in the other order": lambda k: k.flip(-2),
}


@pytest.mark.parametrize("coils", [1, 4])
@pytest.mark.parametrize("reading", READINGS)
def test_k_space_of_another_reading_is_told_with_the_one_that_fits(coils, reading):
    """A Poisson-disc mask for both axes; a conjugate of one coil is a turned image, which nothing contradicts."""
    if coils == 1 and reading != "real and imaginary parts exchanged":
        pytest.skip("one coil knows neither left nor right")
    noise = Noise(("scan",), "noise")
    drawn = CartesianMRI(coils=coils, acceleration=1).draw(SHAPE, noise)
    x = body() + 0.3 * (torch.arange(32) / 32 - 0.5)[None, None, :, None] * (body() > -1)
    right = measure(drawn, x, 0.01, noise)
    units.check(right)
    k = READINGS[reading](to_complex(right.stored()))
    bad = from_measurement(drawn, to_real(k), Gaussian(0.01), noise, SHAPE)
    with pytest.raises(
        ValueError, match="^scan: no image explains .* of its k-space; with .* it would"
    ) as error:
        units.check(bad)
    assert "\n" not in str(error.value)
    if coils > 1:
        assert reading in str(error.value)


def test_k_space_with_its_middle_in_the_corner_is_told():
    noise = Noise(("scan",), "noise")
    drawn = CartesianMRI(acceleration=1).draw(SHAPE, noise)
    k = torch.fft.ifftshift(to_complex(measure(drawn, body(), 0.01, noise).stored()), dim=(-2, -1))
    with pytest.raises(
        ValueError, match=r"loudest at \[0, 0\]; frequency 0 at \[16, 16\] is allowed"
    ):
        units.check(from_measurement(drawn, to_real(k), Gaussian(0.01), noise, SHAPE))


def test_k_space_with_noise_of_another_size_is_told():
    noise = Noise(("scan",), "noise")
    for coils, sigma_y, said in (
        (1, 0.001, "but its k-space has noise of"),
        (8, 0.08, "it is too large"),
    ):
        drawn = CartesianMRI(coils=coils, acceleration=min(coils, 2)).draw(SHAPE, noise)
        y = measure(drawn, body(), 0.01, noise)
        units.check(y)
        with pytest.raises(ValueError, match=said):
            units.check(type(y)(y.y, drawn, Gaussian(sigma_y), ("scan",)))
