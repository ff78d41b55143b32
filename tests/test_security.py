"""Hostile and broken weight files: none runs anything, none hangs, none takes memory, each gives one line.

The corpus (hostile_*.py) is written here, then read by one fresh process, which reports for every file the error, the time,
and by how much the most memory it ever held grew.
"""

import json
import pickle
import re
import subprocess
import sys
import textwrap
import types
from itertools import chain
from pathlib import Path

import hostile_checkpoints
import hostile_folders
import hostile_pickles
import pytest
import torch
from foreign import MOST
from hostile import NODE, folder, good_state

from ldm import checkpoints

ROOT = Path(__file__).parent.parent


def corpus(place, trap):
    """name -> (path, what the line must say)."""
    files = {}
    place.mkdir(exist_ok=True)
    for case in chain(
        hostile_pickles.cases(trap), hostile_checkpoints.cases(), hostile_folders.cases(trap)
    ):
        path = place / f"{case.name}{case.suffix}"
        case.write(path)
        files[case.name] = (path, case.says)
    return files


READER = """
    import json, sys, time
    from ldm import checkpoints
    for line in sys.stdin:
        name, path = json.loads(line)
        before, start = most(), time.time()
        try:
            checkpoints.load(path)
            said = None
        except ValueError as error:
            said = str(error)
        grown = most() - before
        print(json.dumps([name, said, time.time() - start, grown]), flush=True)
"""


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """name -> (path, what it must say, what it said, seconds, kB grown), and the trap no file may spring."""
    place = tmp_path_factory.mktemp("hostile")
    trap = place / "sprung"
    files = corpus(place, trap)
    sound = folder(place / "sound", good_state())  # read first, so that imports do not count
    lines = "".join(
        json.dumps([name, str(path)]) + "\n"
        for name, path in [("sound", sound), *((n, p) for n, (p, _) in files.items())]
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MOST + textwrap.dedent(READER)],
        input=lines,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answers = {row[0]: row[1:] for row in map(json.loads, done.stdout.splitlines())}
    return {n: (p, says, *answers[n]) for n, (p, says) in files.items()}, trap, answers["sound"]


def test_corpus_is_large_and_the_sound_file_loads(read):
    files, _, sound = read
    assert len(files) >= 16 and sound[0] is None


def test_each_gives_one_line(read):
    for name, (_, says, said, *_) in read[0].items():
        assert said is not None, f"{name} was loaded"
        assert re.search(says, said), f"{name}: {said}"
        assert "\n" not in said and len(said) < 1000, f"{name}: {said}"


def test_nothing_runs(read):
    assert not read[1].exists()


def test_none_hangs_and_none_takes_memory(read):
    for name, (path, _, _, seconds, grown) in read[0].items():
        size = path.stat().st_size if path.is_file() else 0
        assert seconds < 10, f"{name} took {seconds:.1f} s"
        assert grown * 1024 < 2 * size + (32 << 20), (
            f"{name} grew by {grown} kB"
        )  # 32 MB: allocator's slack, late imports


def test_the_trap_would_spring(tmp_path):
    """The corpus is only worth something if trusting readers fall for it."""
    trap = tmp_path / "sprung"
    path, _ = corpus(tmp_path, trap)["reduce_pickle"]
    pickle.loads(path.read_bytes())
    assert trap.exists()
    trap.unlink()
    path, _ = corpus(tmp_path / "again", trap)["program"]
    torch.load(path, weights_only=False)
    assert trap.exists()


def test_old_lightning_callbacks_are_left_inert(tmp_path):
    module = types.ModuleType("pytorch_lightning.callbacks.gone")
    module.Gone = type("Gone", (), {"__module__": "pytorch_lightning.callbacks.gone"})
    sys.modules[module.__name__] = module
    content = {
        "config": {"prior": NODE},
        "state_dict": {f"prior.{k}": v for k, v in good_state().items()},
        "ema": {},
    }
    torch.save(
        {**content, "callbacks": {module.Gone: {"best": module.Gone()}}}, tmp_path / "old.ckpt"
    )
    del sys.modules[module.__name__]
    assert checkpoints.load(tmp_path / "old.ckpt").shape == (1, 8, 8)
