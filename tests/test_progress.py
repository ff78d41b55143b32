"""In a log progress is whole lines, seldom; file names cannot act on a terminal; what is costly is not computed unseen."""

import re
import time

from solvers.run import progress


def test_a_log_gets_whole_lines_and_nothing_is_computed_for_nobody(capsys, monkeypatch):
    monkeypatch.setattr(progress, "RARELY", 0.0)
    shown = progress.Progress()
    shown.step(["a"], 0, 2, lambda: 1 / 0)  # not started, so not shown
    shown.start(2, visible=False)
    shown.step(["a"], 0, 2, lambda: 1 / 0)
    assert not capsys.readouterr().err
    shown.start(2)
    shown.step(["\x1b[31mred", "b"], 0, 2, lambda: 0.5)
    shown.finished(2)
    shown.close()
    lines = capsys.readouterr().err.splitlines()
    assert any(
        "0/2" in line and r"\x1b[31mred and 1 more  step 1/2  residual 0.500" in line
        for line in lines
    )
    assert "2/2" in lines[-1] and not any("\r" in line or "\x1b" in line for line in lines)


def test_between_two_showings_nothing_is_computed(capsys):
    shown, asked = progress.Progress(), []
    shown.start(1)
    for t in range(100):
        shown.step(["a"], t, 100, lambda: asked.append(0) or 0.5)
    shown.close()
    assert len(asked) == 1


def test_a_step_that_lasts_is_shown_with_the_time_that_remains(capsys, monkeypatch):
    monkeypatch.setattr(progress, "RARELY", 0.05)
    monkeypatch.setattr(progress, "WAITING", 0.1)
    shown = progress.Progress()
    shown.start(4)
    shown.begin(2, 4)  # two images, two draws each, in two pieces
    shown.step(["a", "a"], 0, 2, None)
    time.sleep(0.5)  # inside a step
    shown.step(["a", "a"], 1, 2, None)
    shown.step(["b", "b"], 0, 2, None)
    assert shown.bar.n == 1.5
    shown.finished(2)
    shown.close()
    lines = capsys.readouterr().err.splitlines()
    waiting = [line for line in lines if "in the next step for" in line]
    assert len(waiting) >= 2 and all("0.5/4" in line and "step 1/2" in line for line in waiting)
    assert all(re.search(r"<\d\d:\d\d", line) for line in waiting)  # what remains
    assert "2/4" in lines[-1] and shown.bar.n == 2
