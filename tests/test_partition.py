# ruff: noqa: F811 (a fixture is imported)
"""The network between two processes of one group is cut, as a cable is: nobody is told, answers just do not come any more."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from runs import arguments, data, last  # noqa: F401  data is a fixture
from severed import GIVE_UP

import main
import sample

APART = ["unshare", "--map-root-user", "--net"]
CABLE = [*APART, "ip", "link", "add", "near", "type", "veth", "peer", "name", "far"]
LONGEST = (
    GIVE_UP + 60
)  # seconds; what ends is what waits for an answer, and then Lightning's own clearing up


def possible() -> bool:
    try:
        return subprocess.run(CABLE, capture_output=True).returncode == 0
    except OSError:
        return False


pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not possible(), reason="needs networks of its own (unshare, ip)"),
]
GROUP = ["--devices", "1", "--num_nodes", "2"]


def cut(when: Path, *program: str) -> list[dict]:
    """What became of both processes."""
    severed = Path(__file__).with_name("severed.py")
    words = [*APART, sys.executable, str(severed), str(LONGEST), str(when), *program]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    print(", ".join(f"{one['code']} after {one['seconds']:.0f} s" for one in found))
    return found


def line(said: str, program: str) -> str:
    (found,) = (one for one in said.splitlines() if one.startswith(f"{program}: "))
    return found


def test_a_training_ends_with_one_line_and_goes_on(data, tmp_path):
    words = arguments(data, tmp_path, "pixel", "save_every=2", "--strategy", "ddp")
    saved = tmp_path / "p/pixel/checkpoints/last.ckpt"
    found = cut(saved, "main.py", *words, *GROUP, "--max_steps", "100000")
    for one in found:
        assert one["code"] == 2 and "Traceback" not in one["said"], one["said"][-2000:]
        assert "does not answer" in line(one["said"], "main.py")
    step = last(tmp_path, "pixel")["global_step"]
    alone = arguments(data, tmp_path, "pixel", "save_every=2", "--devices", "1")
    assert step > 0 and main.main([*alone, "--max_steps", str(step + 2)]) == 0
    after = last(tmp_path, "pixel")
    assert after["global_step"] == step + 2
    assert all(
        v.isfinite().all() for v in after["state_dict"].values() if torch.is_floating_point(v)
    )


def test_a_restoration_goes_on_in_both_parts_and_is_concluded_later(tmp_path):
    """Both see the folder: the queue is in it, so that every image is restored; they only miss each other at the end."""
    world = tiny.world(tmp_path / "world")
    tiny.scans(world / "scans", 12)
    more = ["solver.params.steps=60", "--batch-size", "1"]
    words = tiny.words(world, tmp_path / "cut", *more, solver="daps")
    found = cut(tmp_path / "cut/recon/scan0.png", "sample.py", *words, *GROUP)
    for one in found:
        assert one["code"] == 2 and "Traceback" not in one["said"], one["said"][-2000:]
        assert "does not answer" in line(one["said"], "sample.py")
    assert len(tiny.records(tmp_path / "cut")) == 12
    assert not (tmp_path / "cut/report.html").exists()
    assert sample.main(words) == 0 and (tmp_path / "cut/report.html").exists()
    assert sample.main(tiny.words(world, tmp_path / "whole", *more, solver="daps")) == 0
    assert tiny.restored(tmp_path / "cut") == tiny.restored(tmp_path / "whole")
