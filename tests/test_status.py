"""What scripts/status.py reads from a run's folder alone."""

import json
import os
import time
from pathlib import Path

import pytest
import status

from solvers.run.heart import Heart


def beating(folder: Path, rank: int, seconds: float, **facts) -> Heart:
    now = [0.0]
    heart = Heart(folder, rank, clock=lambda: now[0])
    heart.facts["host"] = f"node{rank}"
    now[0] = seconds
    heart.beat(always=True, **facts)
    return heart


def recorded(folder: Path, good: int, bad: int = 0) -> None:
    folder.mkdir(exist_ok=True)
    lines = [
        {"image_id": f"i{n}", "status": "ok" if n >= bad else "failed: why"}
        for n in range(good + bad)
    ]
    (folder / "records.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in [*lines, lines[-1]])
    )


def shown(capsys, *words: str) -> tuple[int, str]:
    code = status.main([*map(str, words)])
    return code, capsys.readouterr().out


def test_two_processes_at_work(tmp_path, capsys):
    recorded(tmp_path, 30)
    beating(tmp_path, 0, 100, total=100, done=20, image="i29", step=3, steps=10)
    beating(tmp_path, 1, 100, total=100, done=10)
    code, said = shown(capsys, tmp_path)
    assert code == 0
    assert "30 done, 0 failed, 70 left, 0.3 a second, 3 min 53 s to go; 2 alive" in said
    assert "rank 0 on node0: alive, at i29, step 3/10, seen 0 s ago" in said


def test_what_failed_and_what_is_silent(tmp_path, capsys):
    recorded(tmp_path, 4, 2)
    heart = beating(tmp_path, 0, 10, total=8, done=6)
    old = time.time() - 3600
    os.utime(heart.path, (old, old))
    code, said = shown(capsys, tmp_path, "--silence", "60")
    assert code == 1 and "4 done, 2 failed, 2 left; 0 alive" in said and "silent, seen 36" in said
    recorded(tmp_path, 6)
    assert shown(capsys, tmp_path, "--silence", "60")[0] == 3
    heart.stop("finished")
    assert "finished" in shown(capsys, tmp_path)[1]


def test_a_training_run(tmp_path, capsys):
    (tmp_path / "checkpoints").mkdir()
    assert "no checkpoint yet" in shown(capsys, tmp_path)[1]
    (tmp_path / "checkpoints/last.ckpt").write_bytes(b"")
    beating(tmp_path, 0, 50, step=100, steps=400, steps_per_second=2.0, loss=0.25)
    code, said = shown(capsys, tmp_path)
    assert (
        code == 0
        and "step 100 of 400, loss 0.25, last.ckpt of 20" in said
        and "2 min 30 s to go" in said
    )


def test_the_same_for_programs(tmp_path, capsys):
    recorded(tmp_path, 3)
    found = json.loads(shown(capsys, tmp_path, "--json")[1])
    assert (found["done"], found["failed"], found["alive"], found["code"]) == (3, 0, 0, 0)


def test_a_folder_that_is_no_run_is_one_line(tmp_path, capsys):
    assert status.main([str(tmp_path)]) == 2
    assert "no run: neither records.jsonl" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("length", "said"), [(5, "5 s"), (65, "1 min 5 s"), (3700, "1 h 1 min"), (93784, "1 d 2 h")]
)
def test_spans(length, said):
    assert status.span(length) == said
