"""The simulation against what can be said by hand."""

from dataclasses import replace

import pytest
import simulate_cluster
from simulate_cluster import Plan, simulate

CALM = Plan(
    images=6400, gpus=8, seconds=2.0, spread=0.0, batch=8, write=0.0, lock=0.0, preemptions=0.0
)


def changed(plan: Plan, **values) -> Plan:
    return replace(plan, **values)


def test_without_trouble_the_time_is_that_of_the_network():
    out = simulate(CALM)
    assert (
        out.hours * 3600 == pytest.approx(6400 * 2 / 8)
        and out.busy == pytest.approx(1)
        and out.lost == out.preempted == 0
    )


def test_one_disk_bounds_the_rate():
    """64 GPUs make 32 images a second, the disk takes 10."""
    out = simulate(changed(CALM, gpus=64, write=0.1, disks=1))
    assert 6400 / (out.hours * 3600) == pytest.approx(10, rel=0.05) and out.blocked > 0.5


def test_a_slow_lock_bounds_the_rate():
    """A take of 0.5 s for every batch of 8: 16 images a second, whatever the GPUs."""
    out = simulate(changed(CALM, gpus=64, lock=0.5))
    assert 6400 / (out.hours * 3600) == pytest.approx(16, rel=0.05) and out.waits > 0.3


def test_one_queue_waits_for_nobody_where_fixed_shares_do():
    """Images of unequal length, and GPUs that are taken away."""
    plan = changed(CALM, images=16000, spread=0.5, preemptions=48.0, lease=60.0, seed=3)
    queue, fixed = simulate(plan), simulate(changed(plan, fixed=True))
    assert len(queue.done) == len(fixed.done) == 2000 and queue.preempted > 0
    assert queue.hours < fixed.hours


def test_every_image_is_done_however_often_a_gpu_goes():
    out = simulate(changed(CALM, images=1001, preemptions=2000.0, lease=60.0, back=10.0))
    assert len(out.done) == 126 and out.preempted > 10 and out.lost > 0


def test_mistakes_are_one_line(capsys):
    wrong = {
        "whole number": "--gpus 0",
        "not a number": "--seconds -1",
        "ends never": "--seconds 1e6",
    }
    for says, words in wrong.items():
        assert simulate_cluster.main(words.split()) == 2
        assert says in capsys.readouterr().err
    assert simulate_cluster.main(["--images", "100", "--gpus", "2", "4"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
