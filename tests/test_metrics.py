"""Metrics against hand values and independent formulas; intervals and populations against known distributions."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from data.seeding import Noise
from solvers import metrics
from solvers.run import distributions
from solvers.run.record import scores


def noise(*shape: int) -> torch.Tensor:
    return Noise([str(i) for i in range(shape[0])], "noise").normal(shape, torch.float64)


def test_psnr_and_nmse_by_hand():
    truth = torch.zeros(2, 1, 4, 4, dtype=torch.float64)  # 0.5 in the report range
    image = truth + torch.tensor([0.2, 0.02], dtype=torch.float64).reshape(
        2, 1, 1, 1
    )  # errors 0.1 and 0.01 there
    assert metrics.psnr(image, truth).tolist() == pytest.approx([20.0, 40.0], abs=1e-9)
    assert metrics.nmse(image, truth).tolist() == pytest.approx([0.04, 0.0004], abs=1e-12)
    assert metrics.psnr(truth, truth).tolist() == pytest.approx([100.0, 100.0])
    assert metrics.psnr(truth + 5, truth + 1).tolist() == pytest.approx([100.0, 100.0]), (
        "values outside [-1, 1] are clamped"
    )


def test_ssim_equals_a_transcription():
    x, y = (noise(2, 1, 24, 20) / 4).clamp(-1, 1), (noise(2, 1, 24, 20).flip(0) / 3).clamp(-1, 1)
    for a, b, value in zip(x, y, metrics.ssim(x, y)):
        u, v = ((t[0].numpy() + 1) / 2 for t in (a, b))
        window = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
        window = np.outer(window, window) / window.sum() ** 2

        def local(image, window=window):
            return ndimage.convolve(image, window, mode="mirror")

        mu, nu = local(u), local(v)
        suu, svv, suv = local(u * u) - mu**2, local(v * v) - nu**2, local(u * v) - mu * nu
        c1, c2 = 0.01**2, 0.03**2
        expected = (
            (2 * mu * nu + c1) * (2 * suv + c2) / ((mu**2 + nu**2 + c1) * (suu + svv + c2))
        ).mean()
        assert value.item() == pytest.approx(expected, abs=1e-9)


def test_images_smaller_than_the_window_have_an_ssim():
    x = noise(1, 1, 6, 8) / 4
    assert metrics.ssim(x, x).item() == pytest.approx(1.0)


def test_half_turns_and_shifts_are_undone_for_scoring():
    truth = noise(2, 1, 8, 9)
    turned = torch.stack(
        [truth[0].flip(-1, -2).roll((3, 2), (-2, -1)), truth[1].roll((-1, 4), (-2, -1))]
    )
    assert torch.equal(metrics.aligned(turned, truth), truth)


def test_the_interval_of_draws_covers_what_it_says():
    """A further Gaussian draw lies in the 90 % prediction interval of 5 others with probability 0.9."""
    n = 20000
    draws = noise(6, n)
    mean = draws[:5].mean(0)
    share = metrics.coverage(mean, draws[:5], draws[5])
    assert abs(share - 0.9) < 4 * math.sqrt(0.9 * 0.1 / n)  # four standard errors
    expected = stats.t.ppf(0.95, 4) * draws[:5].std(0) * math.sqrt(1.2)
    assert torch.allclose(metrics.half_width(draws[:5]), expected)
    assert metrics.coverage(mean + 10 * expected, draws[:5], draws[5]) < 0.1  # it is about the mean


def test_scores_are_of_the_result_its_first_draw_and_the_baseline():
    truth, image, baseline = (noise(3, 12, 13) / 4).chunk(3)
    draws = image + 0.1 * noise(4, 1, 12, 13)
    found = scores(image, truth, draws, baseline, False)
    x, t, first = image[None], truth[None], draws[:1]
    assert found == {
        **{
            "psnr": metrics.psnr(x, t).item(),
            "ssim": metrics.ssim(x, t).item(),
            "nmse": metrics.nmse(x, t).item(),
        },
        **{"psnr_draw": metrics.psnr(first, t).item(), "ssim_draw": metrics.ssim(first, t).item()},
        **{
            "coverage": metrics.coverage(image, draws, truth),
            "baseline_psnr": metrics.psnr(baseline[None], t).item(),
        },
    }
    turned = truth.flip(-1, -2).roll(3, -1)
    assert (
        scores(turned, truth, None, None, True)["psnr"]
        == 100
        > scores(turned, truth, None, None, False)["psnr"] + 50
    )


def test_a_column_is_described_by_mean_interval_and_number():
    column = [1.0, 2.0, 4.0]
    found = metrics.describe(column)
    low, high = stats.t.interval(0.95, 2, np.mean(column), stats.sem(column))
    assert (
        found["n"] == 3
        and found["mean"] == pytest.approx(7 / 3)
        and found["interval_95"] == pytest.approx((high - low) / 2)
    )
    assert metrics.describe([3.0]) == {"mean": 3.0, "interval_95": None, "n": 1}


def test_a_column_that_is_not_kept_is_described_alike():
    """Also where sums of floats lose all: large numbers that differ little, and the smallest there are."""
    chance = np.random.default_rng(0)
    for values in (
        [3.0],
        [1.0, 2.0],
        chance.normal(30, 5, 1000).tolist(),
        (1e9 + chance.uniform(0, 1e-3, 1000)).tolist(),
        [5e-324, 1e-320, -3.5, 1e150],
    ):
        column = metrics.Column()
        for value in values:
            column.add(value)
        found, expected = column.described(), metrics.describe(values)
        assert [found[key] is None for key in found] == [expected[key] is None for key in expected]
        for key in found:
            assert expected[key] is None or found[key] == pytest.approx(expected[key], rel=1e-15)


def test_frechet_distance_of_diagonal_gaussians():
    mu_a, mu_b, s_a, s_b = (
        np.array([0.0, 1.0]),
        np.array([2.0, 1.5]),
        np.array([1.0, 4.0]),
        np.array([9.0, 0.25]),
    )
    expected = ((mu_a - mu_b) ** 2).sum() + ((np.sqrt(s_a) - np.sqrt(s_b)) ** 2).sum()
    assert distributions.frechet(mu_a, np.diag(s_a), mu_b, np.diag(s_b)) == pytest.approx(
        expected, abs=1e-10
    )
    q, _ = np.linalg.qr(noise(2, 2).numpy())
    turned = distributions.frechet(
        q @ mu_a, q @ np.diag(s_a) @ q.T, q @ mu_b, q @ np.diag(s_b) @ q.T
    )
    assert turned == pytest.approx(expected, abs=1e-10)


def test_kernel_distance_is_zero_for_one_population_and_not_for_two():
    x = noise(600, 4).numpy()
    same, other = (
        distributions.kernel_distance(x[:300], x[300:]),
        distributions.kernel_distance(x[:300], x[300:] + 1),
    )
    # Population value for a mean shift of 1: > 1; the standard error of the unbiased estimate at n = 300 is below 0.1.
    assert abs(same) < 0.4 and other > 1


def test_white_noise_has_a_flat_spectrum():
    images = 0.3 * noise(200, 1, 16, 16)
    spectrum = distributions.radial_spectrum(images)[1:]
    # Each ring averages at least 8 x 200 chi-squared values of mean 0.09: relative error sqrt(2 / 1600), four of them.
    assert len(spectrum) == 7 and float((spectrum / 0.09 - 1).abs().max()) < 4 * math.sqrt(2 / 1600)
    assert distributions.spectral_distance(images, 2 * images) == pytest.approx(
        20 * math.log10(2), abs=1e-9
    )


def test_copies_of_the_reference_are_found():
    reference = noise(5, 1, 12, 12) / 4
    psnr, ssim = distributions.nearest(reference[[3, 1]], reference)
    assert psnr.tolist() == [100.0, 100.0] and ssim.tolist() == pytest.approx([1.0, 1.0])
