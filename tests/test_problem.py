"""Measuring: noise of the right size in the right places, counts made Gaussian, unknown noise estimated, real data checked."""

import math
from pathlib import Path

import pytest
import torch

from data import formats
from data.ranges import percentiles
from data.seeding import Noise
from ldm.denoiser import Prior
from solvers.measured.noise_level import estimated_sigma_y
from solvers.operators import (
    CT,
    MRI,
    CartesianMRI,
    Composition,
    CompressedSensing,
    Denoising,
    GaussianBlur,
    HighDynamicRange,
    Inpainting,
    MotionBlur,
    PhaseRetrieval,
    RadialMRI,
    RandomInpainting,
    SuperResolution,
)
from solvers.operators.base import LinearOperator
from solvers.operators.weighted import weighted
from solvers.operators.wrapper import Composed
from solvers.problem import Clean, Gaussian, Poisson, Problem, from_measurement, measure

IDS = ("a", "b", "c")


def scene(shape=(3, 1, 64, 48)) -> torch.Tensor:
    """Smooth images, one brighter than the other, dark around."""
    r, c = torch.linspace(-1, 1, shape[-2]).double(), torch.linspace(-1, 1, shape[-1]).double()
    bump = torch.exp(-3 * (r[:, None] ** 2 + c**2))
    return (
        torch.stack([(0.3 + 0.2 * i) * 2 * bump - 1 for i in range(shape[0])])[:, None]
        .expand(shape)
        .clone()
    )


def shipped(name: str) -> torch.Tensor:
    """One of the demo's scans in the model range."""
    pixels = formats.read(Path(__file__).parents[1] / "models/demo-data" / name).pixels
    return percentiles(pixels).to_model(pixels)[None].double()


def draw(operator, x, purpose="noise"):
    return operator.draw(tuple(x.shape[1:]), Noise(IDS, purpose))


def test_gaussian_noise_is_sigma_y_where_measured_and_nothing_elsewhere():
    """Variance of n entries has relative error sqrt(2/n); 4 of them for the fewest, 3 x 922 entries."""
    x = scene()
    operator = draw(RandomInpainting(), x)
    problem = measure(operator, x, 0.05, Noise(IDS, "noise"))
    error = (problem.y - operator.forward(x))[operator.m.bool()]
    assert abs(float(error.var()) / 0.05**2 - 1) < 4 * math.sqrt(2 / error.numel())
    assert float(problem.y[~operator.m.bool()].abs().max()) == 0
    torch.testing.assert_close(
        problem.residual(x).square().mean(), torch.tensor(1.0).double(), rtol=0, atol=0.15
    )


def test_noise_belongs_to_images():
    x = scene()
    together = measure(Denoising(), x, 0.1, Noise(IDS, "noise")).y
    alone = measure(Denoising(), x[1:2], 0.1, Noise(IDS[1:2], "noise")).y
    assert torch.equal(together[1:2], alone)
    counts = measure(Denoising(), x, Poisson(50), Noise(IDS, "noise")).y
    assert torch.equal(
        counts[1:2], measure(Denoising(), x[1:2], Poisson(50), Noise(IDS[1:2], "noise")).y
    )


@pytest.mark.parametrize("operator", [CompressedSensing(transform="cosine"), CartesianMRI()])
def test_what_has_both_signs_is_not_counted(operator):
    """Not even for a batch, whose images have their own signs and masks."""
    with pytest.raises(ValueError, match="both signs"):
        measure(draw(operator, scene()), scene(), Poisson(50), Noise(IDS, "noise"))


def test_nor_is_it_taken_for_counts_when_measured():
    """k-space as a real measurement; image-like counts pass."""
    mri, noise = MRI(torch.ones(64, 48)), Noise(IDS, "noise")
    y = measure(draw(mri, scene()), scene(), Clean(), noise).y
    with pytest.raises(ValueError, match="both signs"):
        from_measurement(mri, y, Poisson(50), noise, (1, 64, 48))
    from_measurement(
        Denoising(),
        measure(Denoising(), scene(), Poisson(50), noise).y,
        Poisson(50),
        noise,
        (1, 64, 48),
    )


def test_an_amplitude_is_the_root_of_counts():
    """The detector counts |F u|^2: none of a black image; and the root of a count errs by 1/2 wherever light falls.

    4 standard errors of 6912 squares an image, and 0.01 for entries of few counts."""
    noise, rate = Noise(IDS, "noise"), 2e4
    operator, black = draw(PhaseRetrieval(), scene()), -torch.ones(3, 1, 64, 48).double()
    assert not measure(operator, black, Poisson(rate), noise).y.any()
    x = 2 * noise.of("solver").uniform(tuple(black.shape), torch.float64) - 1
    problem = measure(operator, x, Poisson(rate), noise)
    assert (problem.y >= 0).all()
    torch.testing.assert_close(
        problem.y.square().mean(), operator.forward(x).square().mean(), rtol=1e-3, atol=0
    )
    white = problem.whitened()
    torch.testing.assert_close(
        white.residual(x).square(),
        torch.ones(3).double(),
        rtol=0,
        atol=4 * math.sqrt(2 / 6912) + 0.01,
    )


@pytest.mark.parametrize(
    "operator",
    [
        Denoising(),
        GaussianBlur(7, 1.0, "zero"),
        SuperResolution(2, "average"),
        Inpainting(torch.eye(64, 48)),
    ],
)
def test_counts_have_the_mean_and_variance_of_photons(operator):
    """y averages to A x, and one count's standard deviation is 2 sqrt(A u / rate) in y's units; 400 repetitions."""
    x, rate, n = scene((1, 1, 64, 48)), 200.0, 400
    ids = tuple(map(str, range(n)))
    operator = operator.draw((1, 64, 48), Noise(ids, "mask"))
    clean = operator.forward(x)
    y = measure(operator, x.expand(n, -1, -1, -1), Poisson(rate), Noise(ids, "noise")).y
    bright = ((clean + operator.forward(torch.ones_like(x))) / 2).clamp_min(0)  # A u
    deviation = 2 * (bright / rate).sqrt()
    worst = (
        4.9 * deviation / math.sqrt(n)
    )  # 5e-7 a side, times 3072 pixels: fails by chance once in 300
    assert bool(((y.mean(0) - clean[0]).abs() <= worst[0] + 1e-9).all())
    torch.testing.assert_close(y.var(0).mean(), deviation.square().mean(), rtol=0.02, atol=0)


@pytest.mark.parametrize("first", [Denoising(), HighDynamicRange(1.0)])
def test_a_composition_is_counted_as_its_last_operator(first):
    """Two operators that change nothing, one of them not linear, before CT: the same photons, and the same real data."""
    x = scene() / 2
    alone, both = draw(CT(views=4, bins=24), x), draw(Composition([first, CT(views=4, bins=24)]), x)
    y = measure(alone, x, Poisson(1e4), Noise(IDS, "noise")).y
    torch.testing.assert_close(
        measure(both, x, Poisson(1e4), Noise(IDS, "noise")).y, y, rtol=0, atol=1e-12
    )
    real = [
        from_measurement(op, y, Gaussian(0.1), Noise(IDS, "noise"), (1, 64, 48)).y
        for op in (alone, both)
    ]
    torch.testing.assert_close(real[0], real[1], rtol=0, atol=1e-12)
    assert Composition([first, PhaseRetrieval()]).turns and not both.turns


def test_files_of_a_composition_keep_their_names_apart():
    both = draw(
        Composition([RandomInpainting(), GaussianBlur(5, 1.0), RandomInpainting()]), scene()
    )
    assert both.files().keys() == {"mask_1", "kernel", "mask_3"}


@pytest.mark.parametrize(
    "operator",
    [Denoising(), GaussianBlur(7, 1.0), RandomInpainting(0.3, 0.5), HighDynamicRange(0.5)],
)
def test_whitened_counts_have_one_standard_deviation(operator):
    """At 2000 photons the variance estimate errs by 2 % an entry; the mean squared residual of the truth is then one."""
    x = scene() / 2 + 0.4
    problem = measure(draw(operator, x), x, Poisson(2000.0), Noise(IDS, "noise"))
    white = problem.whitened()
    assert white.sigma_y == pytest.approx(2 / math.sqrt(2000))
    torch.testing.assert_close(
        white.residual(x).square().mean(), torch.tensor(1.0).double(), rtol=0, atol=0.1
    )
    torch.testing.assert_close(problem.residual(x), white.residual(x))
    assert white.whitened() is white


@pytest.mark.parametrize(
    "operator",
    [
        Denoising(),
        GaussianBlur(7, 1.0),
        GaussianBlur(7, 1.0, "circular"),
        RandomInpainting(0.3, 0.5),
    ],
)
def test_weighted_solve_is_the_dense_solve(operator):
    x = scene((3, 1, 7, 9))
    white = measure(draw(operator, x), x, Poisson(30.0), Noise(IDS, "noise")).whitened().select([1])
    A = white.operator.forward(torch.eye(63, dtype=torch.float64).reshape(63, 1, 7, 9)).flatten(1).T
    r = torch.randn(2, 1, 7, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.linalg.solve(
        0.1 * torch.eye(63, dtype=torch.float64) + 2.0 * A @ A.T, r.flatten(1).T
    ).T
    assert isinstance(white.operator, LinearOperator)
    torch.testing.assert_close(
        white.operator.solve(r, 0.1, 2.0).flatten(1), expected, rtol=0, atol=1e-9
    )
    torch.testing.assert_close(
        white.operator.adjoint(r).flatten(1), r.flatten(1) @ A, rtol=0, atol=1e-12
    )


def test_unknown_noise_is_estimated_for_each_image():
    """Images of 3072 pixels: the median's relative error is about 1.17 / sqrt(n / 4); 5 % covers it and the structure."""
    x = scene((3, 1, 256, 192))
    truth = torch.tensor([0.02, 0.05, 0.2]).double()
    for operator in (Denoising(), RandomInpainting(0.3, 0.31), SuperResolution(2)):
        drawn = draw(operator, x)
        rows = [
            measure(drawn.select([i]), x[i : i + 1], float(s), Noise(IDS[i : i + 1], "noise"))
            for i, s in enumerate(truth)
        ]
        problem = measure(drawn, x, Clean(), Noise(IDS, "noise"))
        problem = type(problem)(torch.cat([row.y for row in rows]), drawn, Gaussian(None), IDS)
        torch.testing.assert_close(estimated_sigma_y(problem), truth, rtol=0.08, atol=0)
        white = problem.whitened()
        torch.testing.assert_close(white.residual(x), torch.ones(3).double(), rtol=0, atol=0.09)
        own, alone = problem.in_own_units(), problem.select([2]).whitened()
        assert torch.equal(own.y, problem.y) and torch.equal(alone.y, problem.y[2:])
        assert torch.equal(own.deviations, estimated_sigma_y(problem))
        assert alone.sigma_y == float(own.deviations[2]), "an estimate may not depend on the batch"
        r = torch.ones_like(white.y)
        scale = white.sigma_y / alone.sigma_y
        torch.testing.assert_close(
            white.operator.solve(scale * r, scale**2 * 0.1, 1.0)[2:] * scale,
            alone.operator.solve(r[2:], 0.1, 1.0),
        )


@pytest.mark.parametrize(
    "operator, sigma_y, tolerance",
    [
        (CartesianMRI(), 0.01, 0.05),
        (RadialMRI(), 0.01, 0.05),
        (CT(), 0.1, 0.15),
        (CT(views=180, beam="fan"), 0.1, 0.15),
    ],
)
def test_unknown_noise_of_a_scan_is_estimated(operator, sigma_y, tolerance):
    """MRI: n >= 5376 values that hold noise alone, half of them the other half's mirror images, err by 1/sqrt(n) = 1.4 %.
    CT: structure along the bins adds up to 11 % to noise of 1 % of the largest line integral."""
    x = shipped("brain2-ax-003.png")
    problem = measure(
        operator.draw((1, 256, 256), Noise(("a",), "mask")), x, sigma_y, Noise(("a",), "noise")
    )
    found = estimated_sigma_y(Problem(problem.y, problem.operator, Gaussian(None), ("a",)))
    assert float(found) == pytest.approx(sigma_y, rel=tolerance)


@pytest.mark.parametrize("coils, complex_image", [(4, False), (8, False), (8, True), (1, True)])
def test_unknown_noise_of_coils_and_complex_images_is_right_to_a_tenth(coils, complex_image):
    """Several coils: n = 6,500 numbers or more beyond what an image explains. One coil: 24 rows of air of 32 columns, 1 %."""
    x = torch.nn.functional.avg_pool2d((shipped("brain2-ax-003.png") + 1) / 2, 2)
    x = torch.nn.functional.pad(x, (0, 0, 12, 12)) if coils == 1 else x
    image = (
        torch.cat([x * torch.cos(2 * x), x * torch.sin(2 * x)], 1) if complex_image else 2 * x - 1
    )
    operator = CartesianMRI(coils=coils, complex_image=complex_image)
    for sigma_y in (0.003, 0.01, 0.05):
        problem = measure(
            operator.draw(tuple(image.shape[1:]), Noise(("a",), "mask")),
            image,
            sigma_y,
            Noise(("a",), "noise"),
        )
        found = estimated_sigma_y(Problem(problem.y, problem.operator, Gaussian(None), ("a",)))
        assert float(found) == pytest.approx(sigma_y, rel=0.1)


@pytest.mark.parametrize(
    "operator", [RadialMRI(complex_image=True), CartesianMRI(complex_image=True)]
)
def test_noise_of_k_space_that_any_image_explains_cannot_be_told(operator):
    """One coil and complex images: as many unknowns as numbers, and no rows, or none of air: each is brighter than the last."""
    x, ids = torch.linspace(0.2, 1, 64, dtype=torch.float64)[:, None].expand(1, 2, 64, 128), ("a",)
    operator = operator.draw((2, 64, 128), Noise(ids, "mask"))
    y = measure(operator, x, 0.01, Noise(ids, "noise")).y
    with pytest.raises(ValueError, match="a: sigma_y cannot be estimated from this measurement"):
        estimated_sigma_y(Problem(y, operator, Gaussian(None), ids))


def test_selection_and_repetition():
    x = scene()
    problem = measure(draw(RandomInpainting(), x), x, 0.05, Noise(IDS, "noise"))
    twice = problem.repeat(2)
    assert twice.ids == ("a", "a", "b", "b", "c", "c")
    torch.testing.assert_close(
        twice.residual(x.repeat_interleave(2, 0)), problem.residual(x).repeat_interleave(2)
    )
    with pytest.raises(ValueError, match="whitened"):
        _ = measure(Denoising(), x, Poisson(10), Noise(IDS, "noise")).sigma_y


def test_real_measurements_are_checked():
    y, noise = torch.zeros(3, 1, 8, 6), Noise(IDS, "mask")
    problem = from_measurement(SuperResolution(4), y, Gaussian(0.05), noise, (1, 32, 24))
    assert problem.operator.shape == (1, 32, 24)
    mask = torch.ones(8, 6)
    mask[0] = 0
    assert (
        float(
            from_measurement(Inpainting(mask), y + 1, Gaussian(0.05), noise, (1, 8, 6))
            .y[:, :, 0]
            .abs()
            .max()
        )
        == 0
    )
    for operator, data, message in [
        (
            SuperResolution(2),
            y,
            r"measurement of shape \[1, 8, 6\] does not fit images of \[1, 32, 24\]: \[1, 16, 12\] is due",
        ),
        (MotionBlur(), y, "MotionBlur is drawn at random"),
        (SuperResolution(4), y.to(torch.complex64), "y is complex"),
        (SuperResolution(4), y / 0, "not finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            from_measurement(operator, data, Gaussian(0.05), noise, (1, 32, 24))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Gaussian(-0.1), "sigma_y must be a finite number >= 0, not -0.1"),
        (lambda: Gaussian(math.nan), "sigma_y"),
        (lambda: Poisson(0), "rate must be a finite number > 0, not 0"),
        (
            lambda: measure(Denoising(), scene(), Gaussian(None), Noise(IDS, "noise")),
            "needs a value for sigma_y",
        ),
        (lambda: measure(Denoising(), scene() * 1j, 0.1, Noise(IDS, "noise")), "image is complex"),
    ],
)
def test_bad_input_is_one_line(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_flat_measurements_have_no_noise_to_estimate():
    problem = measure(Denoising(), torch.zeros(3, 1, 32, 32), Clean(), Noise(IDS, "noise"))
    with pytest.raises(ValueError, match="a: sigma_y cannot be estimated"):
        type(problem)(problem.y, problem.operator, Gaussian(None), IDS).whitened()


def test_a_prior_sees_counts_as_gaussian():
    """Behind the channel average of a gray prior the whitened problem stays linear, and its residual is the image's own."""
    x = scene((3, 1, 16, 12)) / 2 + 0.4
    problem = measure(draw(GaussianBlur(5, 1.0), x), x, Poisson(500.0), Noise(IDS, "noise"))
    prior = Prior(torch.nn.Identity(), (3, 16, 12))
    prior.gray = True
    seen = problem.whitened().seen_by(prior)
    assert isinstance(seen.operator, LinearOperator) and seen.sigma_y == problem.whitened().sigma_y
    state = (
        prior.to_state(x)
        + torch.randn(3, 3, 16, 12, generator=torch.Generator().manual_seed(0)) / 10
    )
    torch.testing.assert_close(seen.residual(state), problem.residual(prior.to_image(state)))
    r = torch.ones_like(problem.y)
    back = seen.operator.adjoint(seen.operator.solve(r, 0.1, 0.6))
    torch.testing.assert_close(seen.operator.correct(r, 0.1, 0.6), back, rtol=0, atol=1e-9)
    assert seen.operator.norm() == pytest.approx(
        problem.whitened().operator.norm() / math.sqrt(3), rel=1e-3
    )


@pytest.mark.parametrize("kind", [CT, CartesianMRI, PhaseRetrieval, RandomInpainting])
def test_what_is_known_of_y_is_passed_on(kind):
    """By weights, compositions and what comes before: photons' kind, ambiguities, neighbours, holes, noise without an image."""
    ids, shape = ("a", "b"), (1, 16, 16)
    operator = kind().draw(shape, Noise(ids, "mask"))
    y = operator.restrict(
        Noise(ids, "noise").normal((2, *operator.shape_out(shape)), torch.float64)
    )
    after = [
        weighted(operator, torch.ones(2, *[1] * (y.ndim - 1))),
        Composed(operator, torch.Tensor.clone),
    ]
    for wrapper in (*after, Composition([Denoising(), operator])):
        for known in (
            "unit_range", "transmission", "amplitude", "turns", "gaps", "leaves_coarse",
            "neighbours",
        ):  # fmt: skip
            assert getattr(wrapper, known) == getattr(operator, known), (wrapper, known)
        assert torch.equal(wrapper.measured(y), operator.measured(y)) and torch.equal(
            wrapper.restrict(y), operator.restrict(y)
        )
        alone, own = wrapper.noise_alone(y), operator.noise_alone(y)
        assert (alone is own is None) or torch.equal(alone, own)


def test_what_a_part_of_a_composition_hides_is_hidden():
    hidden = torch.zeros(1, 1, 64, 64)
    hidden[..., :32] = 1
    blur, mask = GaussianBlur(5, 1.0), Inpainting(hidden)
    for parts in ([mask, blur], [blur, mask]):
        whole = Composition(parts).draw((1, 64, 64), Noise(["a"], "mask"))
        assert whole.gaps and whole.leaves_coarse, parts
    assert not Composition([Denoising(), blur]).gaps
