"""Operators on volumes by independent formulas: hand values, ramps, slices one by one, dense Fourier matrices. Then bad input."""

import numpy as np
import pytest
import torch
from scipy.stats import norm as normal

from data.files import Refusal
from data.seeding import Noise
from solvers.operators import (
    CT,
    CartesianMRI,
    GaussianBlur,
    PhaseRetrieval,
    RandomInpainting,
    SuperResolution,
)
from solvers.operators.volume import (
    CartesianVolumeMRI,
    MissingSlices,
    Slicewise,
    ThroughPlane,
    VolumeBlur,
    VolumeMRI,
)
from solvers.problem import Gaussian, image_shape, measure

IDS = ("a", "b")


def column(values) -> torch.Tensor:
    """A volume [1,1,D,1,1]"""
    return torch.as_tensor(values, dtype=torch.float64).reshape(1, 1, -1, 1, 1)


def test_thick_slices_are_means_of_thin_ones():
    x = column([1, 3, 10, 20, 7, 5])
    assert ThroughPlane(2).forward(x).flatten().tolist() == pytest.approx([2, 15, 6])
    assert ThroughPlane(3).forward(x).flatten().tolist() == pytest.approx([14 / 3, 32 / 3])
    # Centres at .75, 3.25, 5.75; 1.5 thick: [0, 1.5], [2.5, 4] and [5, 6.5], of which a third lies in the mirror image.
    thin_between = ThroughPlane(2.5, 1.5).forward(x).flatten().tolist()
    assert thin_between == pytest.approx([(0.5 * 1 + 3) / 1.5, (20 + 0.5 * 7) / 1.5, 5.0])


def test_a_gaussian_profile_is_its_integral_over_thin_slices():
    width = 3.0
    deviation = width / (2 * np.sqrt(2 * np.log(2)))
    impulse = torch.eye(41, dtype=torch.float64).reshape(41, 1, 41, 1, 1)
    row = ThroughPlane(1.0, width, "gaussian").forward(impulse)[:, 0, 20, 0, 0].numpy()
    at = np.arange(-20, 21)
    expected = normal.cdf((at + 0.5) / deviation) - normal.cdf((at - 0.5) / deviation)
    np.testing.assert_allclose(
        row, expected / expected.sum(), atol=1e-4
    )  # cut at 5.5 slices, 4.3 deviations: 2e-5


@pytest.mark.parametrize("factor", [1.0, 2.0, 2.5, 4.0, 6.2])
@pytest.mark.parametrize("profile", ["box", "gaussian", (1.0, 2.0, 1.0)])
def test_a_ramp_is_read_at_the_centres_of_slices(factor, profile):
    """Where a slice lies: a linear volume under a symmetric profile has the value of the profile's centre.

    A thin slice of which a share w is cut counts at its own middle, (1 - w) / 2 beside that of its share: at most 1/8 of a
    thin slice in all, over the profile's width.
    """
    x = column(torch.arange(60.0))
    y = ThroughPlane(factor, profile=profile).forward(x).flatten()
    centre = (torch.arange(len(y)) + 0.5).double() * factor - 0.5
    within = (centre > 15) & (centre < 44)
    torch.testing.assert_close(y[within], centre[within], rtol=0, atol=0.126 / factor)


def test_the_spline_passes_through_the_slices_and_follows_a_cubic():
    operator = ThroughPlane(4.0)
    centre = (torch.arange(6) + 0.5).double() * 4 - 0.5
    cubic = lambda z: 0.001 * z**3 - 0.02 * z**2 + z  # noqa: E731
    thin = operator.baseline(column(cubic(centre)), (1, 24, 1, 1)).flatten()
    at = torch.arange(24).double().clamp(float(centre[0]), float(centre[-1]))
    torch.testing.assert_close(thin, cubic(at), rtol=0, atol=1e-10)


def test_missing_slices_are_interpolated_between_their_neighbours():
    operator = MissingSlices([0, 2, 3])
    x = column([9, 1, 7, 7, 4, 5])
    y = operator.forward(x)
    assert y.flatten().tolist() == [0, 1, 0, 0, 4, 5]
    assert operator.baseline(y, (1, 6, 1, 1)).flatten().tolist() == pytest.approx(
        [1, 1, 2, 3, 4, 5]
    )
    assert float(operator.measured(y)) == 3


@pytest.mark.parametrize(
    "make",
    [lambda: GaussianBlur(3, 1.0), lambda: CT(3, bins=9), lambda: CartesianMRI("random", 2.0, 0.2)],
)
@pytest.mark.parametrize("same", [False, True])
def test_a_stack_is_its_slices_one_by_one(make, same):
    """Slice d of image `a` has the mask that an image `a#d` draws; with `same` every slice has that of image `a`."""
    x = Noise(IDS, "noise").normal((2, 1, 3, 6, 5), torch.float64)
    stack = Slicewise(make(), same).draw((1, 3, 6, 5), Noise(IDS, "mask"))
    y = stack.forward(x)
    for i, image_id in enumerate(IDS):
        for d in range(3):
            alone = make().draw(
                (1, 6, 5), Noise((image_id if same else f"{image_id}#{d}",), "mask")
            )
            torch.testing.assert_close(
                y[i : i + 1, :, d], alone.forward(x[i : i + 1, :, d]), rtol=0, atol=1e-12
            )


def test_three_dimensional_k_space_is_the_dense_transform():
    d, h, w = 3, 4, 5
    x = Noise(("a",), "noise").normal((1, 1, d, h, w), torch.float64)
    mask = torch.ones(d, w).double()
    y = VolumeMRI(mask).forward(x)[0].numpy()
    F = [
        np.exp(-2j * np.pi * np.outer(np.arange(n) - n // 2, np.arange(n) - n // 2) / n)
        / np.sqrt(n)
        for n in (d, h, w)
    ]
    expected = np.einsum("ai,bj,ck,ijk->abc", *F, x[0, 0].numpy() / 2)
    np.testing.assert_allclose(y[0] + 1j * y[1], expected, atol=1e-12)


def test_masks_of_volumes_have_their_acceleration_and_their_own_stream():
    masks = [
        CartesianVolumeMRI(4.0, 0.1).draw((1, 40, 8, 36), Noise((i,), "mask")).mask for i in IDS
    ]
    assert all(float(m.mean()) == pytest.approx(1 / 4, abs=1e-3) for m in masks)
    assert not torch.equal(*masks)


def test_blur_along_one_axis_leaves_the_others():
    x = Noise(("a",), "noise").normal((1, 1, 6, 4, 3), torch.float64)
    y = VolumeBlur((1.0, 0.0, 0.0)).forward(x)
    taps = np.exp(-(np.arange(-4, 5) ** 2) / 2)
    padded = np.pad(x[0, 0].numpy(), ((4, 4), (0, 0), (0, 0)), "symmetric")
    expected = sum(t / taps.sum() * padded[k : k + 6] for k, t in enumerate(taps))
    np.testing.assert_allclose(y[0, 0].numpy(), expected, atol=1e-12)
    torch.testing.assert_close(
        y.sum(2), x.sum(2), rtol=0, atol=1e-12
    )  # a mirrored border keeps the sum


def test_a_volume_is_measured_with_noise_where_it_is_measured():
    x = torch.zeros(2, 1, 4, 6, 5, dtype=torch.float64)
    posed = measure(MissingSlices([1]), x, Gaussian(0.1), Noise(IDS, "noise"))
    assert bool((posed.y[:, :, 1] == 0).all()) and float(posed.y[:, :, 0].std()) == pytest.approx(
        0.1, rel=0.3
    )
    torch.testing.assert_close(
        posed.residual(x), (posed.y.flatten(1).norm(dim=1) / (0.1 * 90**0.5))
    )


@pytest.mark.parametrize(
    "factor", [1.0, 1.1, 1.3, 4 / 3, 1.7, 2.0, 2.5, np.e, 3.3, 4.0, 7.77, 12.5]
)
def test_every_number_of_thick_slices_is_of_a_volume(factor):
    """Of the most thin slices whose spacing is the factor's part: the last face moves in by less than one of them."""
    operator = ThroughPlane(factor)
    for m in [*range(1, 200), 1000, 4321]:
        _, thin, *_ = shape = operator.shape_in((1, m, 3, 2))
        assert operator.shape_out(shape) == (1, m, 3, 2)
        assert m * factor - 1 < thin <= m * factor + 1e-6
    y = Noise(("a",), "noise").normal((1, 1, 12, 3, 2), torch.float64)
    assert operator.forward(operator.adjoint(y)).shape == y.shape  # bound to no volume


def test_a_measured_stack_keeps_its_slices():
    """The factor is of the plane alone; the prior is of slices, whose size sinograms of any number of bins have."""
    assert image_shape(Slicewise(SuperResolution(2)), (3, 5, 8, 10), (3, 32, 32)) == (3, 5, 16, 20)
    sinograms = Slicewise(CT(7)).shape_out((1, 5, 32, 32))
    assert image_shape(Slicewise(CT(7)), sinograms, (1, 32, 32)) == (1, 5, 32, 32)
    with pytest.raises(Refusal, match="does not fit"):
        image_shape(Slicewise(CT(7)), (1, 5, 8, 99), (1, 32, 32))


@pytest.mark.parametrize(
    "make, shape, says",
    [
        (lambda: ThroughPlane(0.5), None, "a number >= 1"),
        (lambda: ThroughPlane(2, thickness=0), None, "above 0"),
        (lambda: ThroughPlane(2, profile="triangle"), None, "not box, gaussian"),
        (lambda: ThroughPlane(2, 1.0, (1, 2, 1)), None, "leave `thickness` out"),
        (lambda: ThroughPlane(2, profile=(1.0, -1.0)), None, "must not sum to 0"),
        (lambda: ThroughPlane(2), (1, 8, 8), "takes volumes"),
        (lambda: MissingSlices(), None, "give either"),
        (lambda: MissingSlices([9]), (1, 4, 3, 3), "do not exist in a volume of 4"),
        (lambda: MissingSlices([0, 1]), (1, 2, 3, 3), "all 2 slices are missing"),
        (lambda: VolumeBlur((1.0, 2.0)), None, "three standard deviations"),
        (lambda: ThroughPlane(100), (1, 12, 3, 3), "leaves 1 slice of 12; a factor below 12"),
        (lambda: ThroughPlane(4, thickness=1e6), (1, 12, 3, 3), "at most 12 is allowed"),
        (lambda: MissingSlices(every=50), (1, 12, 3, 3), "1 of 12 slices is left"),
        (lambda: MissingSlices([0, 1, -1]), (1, 4, 3, 3), "1 of 4 slices is left"),
        (lambda: VolumeBlur((9000, 1, 1)), None, "three standard deviations >= 0 and < 1000"),
        (lambda: VolumeBlur(border="valid"), None, "one of reflect, symmetric, circular, zero$"),
        (lambda: VolumeMRI(torch.full((2, 2), 0.5)), None, "of 0 and 1"),
        (lambda: VolumeMRI(torch.ones(3, 3)), (1, 4, 2, 3), "does not fit"),
        (lambda: Slicewise(PhaseRetrieval()), (1, 4, 8, 8), "one by one"),
        (lambda: Slicewise(RandomInpainting()), (1, 8, 8), "takes volumes"),
    ],
)
def test_refused_in_one_line(make, shape, says):
    with pytest.raises(Refusal, match=says) as caught:
        make().draw(shape, Noise(IDS, "mask"))
    assert "\n" not in str(caught.value)
