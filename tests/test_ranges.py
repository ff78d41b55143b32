"""stored -> model -> stored is the identity inside the window, to rounding."""

import pytest
import torch

from data.ranges import DEPTH_16, Intensity, from_unit, percentiles, to_report, to_unit


def test_hand_values():
    ct = Intensity(-1000, 400)
    stored = torch.tensor([-1000.0, -300.0, 400.0, 900.0, -2000.0])
    assert ct.to_model(stored).tolist() == [-1, 0, 1, 1, -1]
    assert ct.to_stored(torch.tensor([-1.0, 0.0, 1.0, 1.1])).tolist() == pytest.approx(
        [-1000, -300, 400, 470]
    )
    assert ct.per_unit == 700


def test_every_16_bit_value_survives():
    values = torch.arange(65536, dtype=torch.float32)
    # float32 keeps 24 bits: 65535 * 2^-24 * a few roundings is far below half a unit
    assert torch.equal(DEPTH_16.to_stored(DEPTH_16.to_model(values)).round(), values)


def test_percentiles_ignore_what_is_not_finite():
    x = torch.arange(101.0).reshape(1, 101)
    x = torch.cat([x, torch.tensor([[float("nan"), float("inf")]])], 1)
    assert percentiles(x, 10, 90) == Intensity(10, 90)
    assert percentiles(torch.full((3,), 7.0)) == Intensity(7, 8)
    with pytest.raises(ValueError, match="no finite value"):
        percentiles(torch.tensor([float("nan")]))


def test_unit_and_report():
    x = torch.tensor([-1.0, 0.0, 1.0, 1.5])
    assert to_unit(x).tolist() == [0, 0.5, 1, 1.25] and to_report(x).tolist() == [0, 0.5, 1, 1]
    assert torch.equal(from_unit(to_unit(x)), x)


def test_empty_window_is_refused():
    with pytest.raises(ValueError, match="low < high"):
        Intensity(1, 1)
