"""The rows of `benchmark.py scale` with few images: they measure what they say, whatever this machine does meanwhile."""

import math

import benchmark_scale
import benchmark_scale_runs
import pytest

FEW = {"queue": 1, "memory": 1, "first_image": 1, "records": 2}


@pytest.mark.parametrize("name", FEW)
def test_rows_of_few_images(name, monkeypatch):
    monkeypatch.setattr(benchmark_scale, "MANY", 200)
    monkeypatch.setattr(benchmark_scale, "TAKEN", 20)
    monkeypatch.setattr(benchmark_scale, "HELD", (10, 2000))
    found = list(getattr(benchmark_scale, name)())
    assert len(found) == FEW[name]
    for row in found:
        assert math.isfinite(row.value) and row.value < row.limit, str(row)
        assert "1,000,000" not in row.what and "100,000" not in row.what


def test_every_row_is_tried_here():
    assert {row.__name__ for row in benchmark_scale.ROWS} == {*FEW, "sampling", "training", "busy"}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["sampling", "training", "busy"])
def test_rows_of_whole_runs(name, monkeypatch):
    """Not what they come to, which needs idle cores."""
    few = {"IMAGES": 4, "STEPS": 2, "SIDE": 64, "BATCHES": 4, "BATCH": 4}
    for key, value in few.items():
        monkeypatch.setattr(benchmark_scale_runs, key, value)
    for row in getattr(benchmark_scale_runs, name)():
        assert 0 < row.value < (110 if row.unit == "%" else 10), str(row)
