"""MRI against plain Fourier transforms, its masks, coils, baselines and bad input; compressed sensing and compositions."""

import numpy as np
import pytest
import torch

from data.seeding import Noise
from solvers.condition import conditioned, plain
from solvers.operators import (
    MRI,
    CartesianMRI,
    Composition,
    CompressedSensing,
    Denoising,
    HighDynamicRange,
    RadialMRI,
    SuperResolution,
    kspace,
)
from solvers.operators.base import LinearOperator
from solvers.operators.compressed_sensing import basis
from solvers.operators.kspace import gapless, to_complex
from solvers.operators.mri_recipes import simulated
from solvers.problem import Gaussian, Problem, image_shape, measure

IDS = ("first", "second")


def field(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("h, w", [(8, 6), (7, 5)])
def test_kspace_is_the_centred_orthonormal_transform_of_u(h, w):
    x = field(1, 1, h, w)
    operator = MRI(torch.ones(h, w)).draw((1, h, w), Noise(("a",), "mask"))
    y = operator.forward(x) + operator.forward(torch.ones_like(x))
    u = ((x + 1) / 2)[0, 0].numpy()
    expected = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(u), norm="ortho"))
    assert np.abs(to_complex(y)[0, 0].numpy() - expected).max() < 1e-12
    assert abs(complex(to_complex(y)[0, 0, h // 2, w // 2]) - u.sum() / (h * w) ** 0.5) < 1e-12


def test_full_sampling_is_undone_by_the_baseline():
    for coils in (None, simulated(4, 8, 9)):
        operator = MRI(torch.ones(8, 9), coils).draw((1, 8, 9), Noise(IDS, "mask"))
        x = field(2, 1, 8, 9).clamp(-1, 1)
        torch.testing.assert_close(operator.baseline(operator.forward(x), (1, 8, 9)), x)
        operator = MRI(torch.ones(8, 9), coils, complex_image=True).draw(
            (2, 8, 9), Noise(IDS, "mask")
        )
        z = field(2, 2, 8, 9)
        torch.testing.assert_close(operator.baseline(operator.forward(z), (2, 8, 9)), z)


@pytest.mark.parametrize("pattern", ["equispaced", "random", "poisson_disc"])
@pytest.mark.parametrize("acceleration, centre", [(4.0, 0.08), (8.0, 0.04)])
def test_masks_keep_their_share_and_the_centre(pattern, acceleration, centre):
    """Equispaced columns may fall on the centre or past the edge: one column of 128 more or fewer per gap of rounding."""
    n = 128
    operator = CartesianMRI(pattern, acceleration, centre).draw((1, n, n), Noise(IDS, "mask"))
    masks = operator.mask[:, 0]
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    share = masks.mean((1, 2))
    slack = 2 / n if pattern == "equispaced" else 1e-9
    assert float((share - 1 / acceleration).abs().max()) <= slack
    middle = kspace.centre_columns(n, centre).bool()
    assert (masks[:, n // 2][:, middle] == 1).all() and middle[n // 2]
    assert not torch.equal(masks[0], masks[1])
    again = CartesianMRI(pattern, acceleration, centre).draw((1, n, n), Noise(IDS[::-1], "mask"))
    assert torch.equal(again.mask[0], operator.mask[1])
    if pattern != "poisson_disc":
        assert (masks == masks[:, :1]).all()


@pytest.mark.parametrize(
    "w, acceleration, centre", [(32, 4.0, 1.0), (8, 8.0, 0.0), (8, 16.0, 0.0), (1, 4.0, 0.08)]
)
def test_equispaced_masks_of_extreme_settings_measure_something(w, acceleration, centre):
    """A centre that is everything, and no more columns than the acceleration: every image keeps one at least."""
    masks = kspace.equispaced(4, w, acceleration, centre, Noise(tuple(map(str, range(40))), "mask"))
    kept = masks[:, 0].sum(1)
    assert (kept == w).all() if centre == 1 else (kept == 1).all()


def test_points_of_a_poisson_disc_keep_their_distance():
    radius = np.full((40, 40), 3.0)
    order = np.random.default_rng(0).permutation(1600)
    i, j = np.nonzero(kspace.thrown(order, radius))
    distance = np.hypot(i[:, None] - i, j[:, None] - j)
    assert distance[distance > 0].min() >= 3
    assert (
        np.hypot(np.arange(40)[:, None, None] - i, np.arange(40)[:, None] - j).min(-1) < 3
    ).all()  # and leave no gap


def test_radial_positions_from_a_table(tmp_path):
    path = tmp_path / "k.txt"
    np.savetxt(path, [[0, 0], [1.2, -2.4], [-3, 3], [90, 0]])
    mask = RadialMRI(table=str(path)).draw((1, 7, 8), Noise(("a",), "mask")).mask[0, 0]
    assert mask.nonzero().tolist() == [[0, 7], [3, 4], [4, 2]]
    assert RadialMRI(3).draw((1, 16, 16), Noise(("a",), "mask")).mask[0, 0, 8, 8] == 1
    (tmp_path / "bad.txt").write_text("1 2 3\n")
    with pytest.raises(ValueError, match="one line of ky and kx"):
        RadialMRI(table=str(tmp_path / "bad.txt")).draw((1, 7, 8), Noise(("a",), "mask"))


def test_measured_counts_real_entries_and_noise_stays_there():
    x = field(2, 1, 16, 12)
    operator = CartesianMRI("random", 3.0, 0.1, coils=3).draw((1, 16, 12), Noise(IDS, "mask"))
    problem = measure(operator, x, 0.1, Noise(IDS, "noise"))
    count = operator.mask.sum((1, 2, 3)) * 6
    assert torch.equal(operator.measured(problem.y), count)
    assert torch.equal((problem.y != 0).sum((1, 2, 3)).double(), count)


def test_rows_and_conjugate_gradients_agree():
    """The row by row solution of several coils against the iteration that any mask takes, per image its own mask and v."""
    operator = CartesianMRI("random", 2.0, 0.2, coils=3).draw((1, 6, 8), Noise(IDS, "mask"))
    assert operator.exact

    class Iterated(MRI):
        exact = False

    iterated = Iterated(operator.mask, operator.sensitivities).bind((1, 6, 8))
    m, v = field(2, 1, 6, 8), torch.tensor([0.2, 3.0], dtype=torch.float64)
    y = operator.forward(field(2, 1, 6, 8, seed=1))
    a, b = (
        conditioned(plain(m, v), Problem(y, op, Gaussian(0.1), IDS), accuracy=1e-9, cap=300)
        for op in (operator, iterated)
    )
    torch.testing.assert_close(a.x, b.x, rtol=1e-7, atol=1e-7)
    assert (b.iterations > 0).all() and not a.iterations.any()
    ones = conditioned(plain(m[1:], v[1:]), Problem(y, operator, Gaussian(0.1), IDS).select([1]))
    torch.testing.assert_close(a.x[1:], ones.x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "sigma_y, dtype, limit", [(1e-5, torch.float32, 1e-4), (0.0, torch.float64, 1e-2)]
)
def test_rows_that_coils_see_too_little_of_are_not_filled_by_rounding(sigma_y, dtype, limit):
    """Two coils at 4-fold acceleration leave half of a complex image to the belief, whatever the noise is divided by."""
    operator = CartesianMRI("equispaced", 4.0, 0.1, coils=2, complex_image=True).draw(
        (2, 6, 16), Noise(IDS[:1], "mask")
    )
    A = operator.forward(torch.eye(192).double().reshape(192, 2, 6, 16)).flatten(1).T
    y = operator.forward(field(1, 2, 6, 16))
    x = conditioned(
        plain(torch.zeros(1, 2, 6, 16, dtype=dtype), 0.5),
        Problem(y.to(dtype), operator, Gaussian(sigma_y), IDS[:1]),
    ).x
    expected = (
        torch.linalg.pinv(A, rtol=1e-10) @ y.flatten()
    )  # sigma_y is far below every singular value
    assert float((x.flatten() - expected).abs().max()) < limit


@pytest.mark.parametrize("coils", [1, 4])
def test_real_k_space_may_be_of_any_size(coils):
    """Not the prior's: y's own, with the prior's channels and not the coils'."""
    operator = MRI(torch.ones(24, 20), simulated(coils, 24, 20) if coils > 1 else None)
    assert image_shape(operator, (2 * coils, 24, 20), (1, 32, 32)) == (1, 24, 20)
    assert image_shape(SuperResolution(2), (3, 8, 10), (3, 32, 32)) == (3, 16, 20)


def test_bad_input_is_one_line():
    attempts = [
        lambda: CartesianMRI("spiral"),
        lambda: CartesianMRI(acceleration=0.5),
        lambda: RadialMRI(0),
        lambda: MRI(torch.zeros(4, 4)),
        lambda: MRI(torch.ones(4, 4), torch.ones(1, 3, 4, 4)),
        lambda: MRI(torch.ones(4, 4), torch.ones(1, 1, 4, 4, dtype=torch.complex64)),
        lambda: MRI(torch.ones(4, 4), torch.full((1, 2, 4, 4), torch.nan)),
        lambda: MRI(torch.ones(4, 4)).draw((3, 4, 4), Noise(("a",), "mask")),
        lambda: MRI(torch.ones(4, 4)).draw((1, 4, 5), Noise(("a",), "mask")),
        lambda: CompressedSensing(0.0),
        lambda: CompressedSensing().draw((1, 6, 8), Noise(("a",), "mask")),
        lambda: Composition([]),
    ]
    for attempt in attempts:
        with pytest.raises(ValueError) as error:
            attempt()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "transform, n", [("hadamard", 8), ("cosine", 7), ("fourier", 6), ("fourier", 5)]
)
def test_transforms_are_orthonormal(transform, n):
    T = basis(transform, n, torch.float64, torch.device("cpu"))
    torch.testing.assert_close(T @ T.T, torch.eye(n, dtype=torch.float64), rtol=0, atol=1e-12)


def test_a_composition_is_linear_if_its_parts_are():
    noise = Noise(IDS, "mask")
    assert isinstance(
        Composition([Denoising(), Denoising()]).draw((1, 4, 4), noise), LinearOperator
    )
    bent = Composition([Denoising(), HighDynamicRange()]).draw((1, 4, 4), noise)
    assert not isinstance(bent, LinearOperator)
    x = 0.1 * field(2, 1, 4, 4)
    torch.testing.assert_close(bent.linearize(x).forward(x), 2 * x)


def test_coarse_structure_is_told_by_the_gapless_middle():
    """The middle 10 of 256 columns tell waves of 51 pixels, half of which is wider than COARSE; 20 tell 12 pixels."""
    columns = torch.zeros(2, 256)
    columns[:, ::8] = columns[0, 123:133] = columns[1, 118:138] = 1
    assert gapless(columns).tolist() == [10, 20]
    masks = columns[:, None, None].expand(-1, 1, 4, -1)
    assert [MRI(mask[None]).leaves_coarse for mask in masks] == [True, False]
    coils = simulated(2, 4, 256)
    assert MRI(masks[1][None], coils, open_phase=True).leaves_coarse
    scattered = masks[0].clone()
    scattered[0, 0, 1] = 1
    assert not MRI(scattered[None]).leaves_coarse
