"""Hand values, and VP <-> sigma round trips."""

import math

import pytest
import torch

from ldm import schedule


def test_latent_diffusion_table():
    """Values of resample's FFHQ VQ-f4 table: alpha_bar[0] = 1 - 0.0015, alpha_bar[999] = 1.423e-4 (four digits known)."""
    a = schedule.scaled_linear_alpha_bar()
    assert a[0].item() == pytest.approx(1 - 0.0015, abs=1e-15)
    assert a[661].item() == pytest.approx(0.02466, abs=5e-6)
    assert a[341].item() == pytest.approx(0.33064, abs=5e-6)
    assert a[999].item() == pytest.approx(1.423e-4, abs=5e-8)


def test_ddpm_table():
    a = schedule.linear_alpha_bar()
    assert a[1].item() == pytest.approx((1 - 1e-4) * (1 - 1e-4 - 0.0199 / 999), abs=1e-15)
    assert schedule.sigma_of(a[999]).item() == pytest.approx(157.4, abs=0.05)


def test_cosine_table_is_a_product_of_clipped_betas():
    a = schedule.cosine_alpha_bar(4)
    f = [math.cos((u / 4 + 0.008) / 1.008 * math.pi / 2) ** 2 for u in range(5)]
    by_hand = f[1] / f[0]
    assert a[0].item() == pytest.approx(by_hand, abs=1e-14)
    assert a[3].item() == pytest.approx(
        f[3] / f[0] * 1e-3, abs=1e-14
    )  # the last beta is clipped at 0.999


@pytest.mark.parametrize(
    "table",
    [schedule.linear_alpha_bar(), schedule.scaled_linear_alpha_bar(), schedule.cosine_alpha_bar()],
)
def test_time_is_the_exact_inverse_of_the_table(table):
    sigma = schedule.sigma_of(table)
    index = torch.arange(len(table), dtype=torch.float64)
    # log and its inverse cost a few ulp of log sigma, divided by the smallest spacing of the log table
    spacing = sigma.log().diff().min().item()
    assert (schedule.time_of(sigma, table) - index).abs().max() < 20 * torch.finfo(
        torch.float64
    ).eps / spacing
    halfway = (sigma[10] * sigma[11]).sqrt()
    assert schedule.time_of(halfway[None], table).item() == pytest.approx(10.5, abs=1e-9)
    assert schedule.time_of(torch.tensor([1e-9, 1e9]), table).tolist() == [0, len(table) - 1]


def test_sigma_and_alpha_bar_are_inverse():
    a = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    # sigma^2 + 1 rounds once, the division once more: a few ulp relative
    torch.testing.assert_close(
        schedule.alpha_bar_of(schedule.sigma_of(a)),
        a,
        rtol=8 * torch.finfo(torch.float64).eps,
        atol=0,
    )


@pytest.mark.parametrize("levels", [schedule.karras, schedule.geometric])
def test_levels_hit_both_ends_and_fall(levels):
    s = levels(18, 0.002, 80.0)
    assert s[0].item() == pytest.approx(80, rel=1e-13) and s[-1].item() == pytest.approx(
        0.002, rel=1e-12
    )
    assert (s.diff() < 0).all()
    assert levels(1, 0.002, 80.0).tolist() == pytest.approx([80.0])


def test_levels_by_hand():
    # ((100^(1/7) + 0.1^(1/7)) / 2)^7: the middle of three levels
    assert schedule.karras(3, 0.1, 100.0)[1].item() == pytest.approx(
        ((100 ** (1 / 7) + 0.1 ** (1 / 7)) / 2) ** 7, rel=1e-14
    )
    assert schedule.geometric(3, 0.1, 10.0)[1].item() == pytest.approx(1.0, rel=1e-14)


@pytest.mark.parametrize("steps", [1, 2, 3, 9, 27, 36, 101, 300, 501, 999, 1000])
def test_any_number_of_ddim_steps(steps):
    times = schedule.ddim_times(steps)
    assert len(times.unique()) == steps and times[0] == 999 and (steps == 1 or times[-1] == 0)


def test_impossible_steps_are_refused():
    with pytest.raises(ValueError, match="between 1 and 1000"):
        schedule.ddim_times(1001)
