"""In a log progress is whole lines, seldom; file names cannot act on a terminal; what is costly is not computed unseen."""

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
    assert any("0/2" in line and r"\x1b[31mred and 1 more  step 1/2  residual 0.500" in line for line in lines)
    assert "2/2" in lines[-1] and not any("\r" in line or "\x1b" in line for line in lines)


def test_between_two_showings_nothing_is_computed(capsys):
    shown, asked = progress.Progress(), []
    shown.start(1)
    for t in range(100):
        shown.step(["a"], t, 100, lambda: asked.append(0) or 0.5)
    shown.close()
    assert len(asked) == 1
