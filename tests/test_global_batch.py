# ruff: noqa: F811 (a fixture is imported)
"""A training that goes on with another number of processes: rows once each, steps of as many images, steps counted."""

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from runs import arguments, data, last  # noqa: F401  data is a fixture

import main
from data.datamodule import ManifestData
from data.files import Refusal
from ldm.training.global_batch import PROGRESS, Place, dealt, keep, place_in, recount


def loaders(data: Path, ranks: int, batch: int, accumulated: int, **params):
    """Of every rank, as Lightning asks for them."""
    made = []
    for rank in range(ranks):
        module = ManifestData(str(data / "many.csv"), batch_size=batch, seed=3, **params)
        module.trainer = SimpleNamespace(
            world_size=ranks, global_rank=rank, accumulate_grad_batches=accumulated
        )
        made.append(module.train_dataloader())
    return made


@pytest.fixture(scope="module")
def many(data) -> Path:
    """Twenty-nine rows: no number of processes divides them."""
    rows = "".join(f"s{i % 8}.png,r{i},p{i % 5}\n" for i in range(29))
    (data / "many.csv").write_text("path,image_id,subject\n" + rows)
    return data


def steps_of(data: Path, lives: Sequence[tuple[int, int | None]], **params) -> list[list[str]]:
    """The rows of every optimiser step of an epoch, in the order dealt. lives: (processes, steps until it is stopped)."""
    state, found = None, []
    for ranks, stop in lives:
        batch, accumulated = dealt(6, ranks, 3, 1)
        made = loaders(data, ranks, batch, accumulated, **params)
        for loader in made:
            loader.sampler.set_epoch(2)
            if state:
                loader.load_state_dict(state)
        used = zip(*made)
        left = len(made[0]) // accumulated - (state["rows"] // 6 if state else 0)
        for _ in range(left if stop is None else stop):
            step = []
            for shares in (next(used) for _ in range(accumulated)):
                step += [share["image_id"][i] for i in range(batch) for share in shares]
            found.append(step)
        assert stop is not None or next(used, None) is None
        state = made[0].state_dict()
    assert state.keys() == set(Place._fields)
    return found


@pytest.mark.parametrize("params", [{}, {"balance": 0.5}], ids=["every row once", "balanced"])
@pytest.mark.parametrize(
    "lives", [[(2, 1), (1, None)], [(1, 3), (2, None)], [(2, 1), (3, 2), (2, None)], [(3, None)]]
)
def test_an_epoch_s_steps_are_the_same_whoever_reads_them(many, lives, params):
    """Four steps of 6 in 29 rows: the same rows in the same order, none of them twice."""
    unbroken = steps_of(many, [(2, None)], **params)
    assert steps_of(many, lives, **params) == unbroken and list(map(len, unbroken)) == [6] * 4
    assert params or len({row for step in unbroken for row in step}) == 24


def test_a_checkpoint_of_an_earlier_version_counts_batches(many):
    first = loaders(many, 2, 3, 1)[1]
    rows = [batch["image_id"] for batch in first]
    again = loaders(many, 2, 3, 1)[1]
    again.load_state_dict({"epoch": 0, "used": 3})
    assert [batch["image_id"] for batch in again] == rows[3:] and len(rows) == 4


@pytest.mark.parametrize(
    ("step", "processes", "batch", "accumulated", "found"),
    [
        (16, 2, 8, 1, (8, 1)),
        (16, 1, 8, 1, (8, 2)),
        (16, 1, 16, 1, (16, 1)),
        (16, 4, 8, 1, (4, 1)),
        (16, 8, 8, 1, (2, 1)),
        (24, 2, 8, 1, (6, 2)),
        (64, 1, 8, 4, (8, 8)),
        (64, 4, 8, 4, (8, 2)),
        (7, 1, 4, 1, (1, 7)),
    ],
)
def test_a_step_is_dealt(step, processes, batch, accumulated, found):
    assert dealt(step, processes, batch, accumulated) == found
    assert found[0] * found[1] * processes == step and found[0] <= batch


def test_what_does_not_divide_is_one_line():
    with pytest.raises(Refusal, match="steps have 16 images, which 3 processes cannot share"):
        dealt(16, 3, 8, 1)


def test_intervals_follow_the_batches():
    """Validation every 5 batches and epochs of 7, given for two processes, are every 10 and 14 of one."""
    trainer = SimpleNamespace(
        num_devices=1, num_nodes=1, accumulate_grad_batches=1,
        val_check_interval=5, limit_train_batches=7,
    )  # fmt: skip
    module = SimpleNamespace(batch_size=4)
    said = keep(trainer, module, Place(epoch=0, rows=8, batch=8, step=8))
    assert said == "optimiser steps keep their 8 images: 1 process, batches of 4, 2 accumulated"
    assert (trainer.val_check_interval, trainer.limit_train_batches) == (10, 14)
    assert (module.batch_size, trainer.accumulate_grad_batches) == (4, 2)
    assert keep(trainer, module, Place(0, 8, 4, 8)) == ""


def test_counters_follow_the_batches():
    place = Place(epoch=1, rows=24, batch=8, step=8)._asdict()
    counts = {"ready": 3, "started": 3, "processed": 3, "completed": 2}
    progress = {"current": dict(counts), "total": {**counts, "ready": 8, "completed": 7}}
    loop = {"state_dict": {"combined_loader": [place]}, PROGRESS: progress}
    recount({"loops": {"fit_loop": loop}}, 4)
    assert progress["current"] == {"ready": 6, "started": 6, "processed": 6, "completed": 5}
    assert (progress["total"]["ready"], progress["total"]["completed"]) == (16, 15)
    recount({"loops": {"fit_loop": loop}}, 8)  # of no other size than the file's place says
    assert progress["current"]["ready"] == 6 and place_in({}) is None


RECORDING = """
import json, os
from ldm.training.diffusion import PixelDiffusion
step = PixelDiffusion.training_step

def recorded(self, batch, index):
    with open(os.environ["ROWS"], "a") as file:
        facts = self.current_epoch, self.global_step, self.trainer.world_size, list(batch["image_id"])
        file.write(json.dumps(facts) + "\\n")
    return step(self, batch, index)

PixelDiffusion.training_step = recorded
"""


def trained(data: Path, where: Path, ranks: int, steps: int, *more: str) -> str:
    """A run of main.py in processes of its own; what it says."""
    (where / "recording.py").write_text(RECORDING)
    words = arguments(data, where, "pixel", "--max_steps", str(steps), "--plugin", "recording")
    words += ["model.params.optimiser.params.floor=1.0", *more]
    words += ["--devices", str(ranks), "--strategy", "ddp"] if ranks > 1 else ["--devices", "1"]
    paths = os.pathsep.join([str(where), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {
        "ROWS": str(where / "rows.jsonl"), "PYTHONPATH": paths, "OMP_NUM_THREADS": "1",
        "MASTER_PORT": str(20000 + os.getpid() % 20000),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "main.py", *words],
        capture_output=True, text=True, timeout=300, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def steps_read(where: Path) -> dict[tuple[int, int], list[str]]:
    """(epoch, step) -> its rows, sorted."""
    found = defaultdict(list)
    for line in (where / "rows.jsonl").read_text().splitlines():
        epoch, step, _, rows = json.loads(line)
        found[epoch, step] += rows
    return {key: sorted(rows) for key, rows in found.items()}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_one_and_two_again(data, tmp_path):
    """gloo: the steps of a run that two processes began, one went on with, and two ended, are those of an unbroken one."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for where in (whole, parts):
        where.mkdir()
    more = ["data.params.batch_size=1", "--limit_val_batches", "1", "--val_check_interval", "2"]
    more += ["--log_every_n_steps", "1"]
    trained(data, whole, 2, 7, *more)
    assert "optimiser steps" not in trained(data, parts, 2, 1, *more)
    said = trained(data, parts, 1, 4, *more)
    assert "steps keep their 2 images: 1 process, batches of 1, 2 accumulated" in said
    trained(data, parts, 1, 5, *more)
    assert "optimiser steps" not in trained(data, parts, 2, 7, *more)
    steps = steps_read(parts)
    assert steps == steps_read(whole) and list(steps) == [(s // 4, s) for s in range(7)]
    assert sorted(row for step in range(4) for row in steps[0, step]) == [f"s{i}" for i in range(8)]
    a, b = last(whole, "pixel"), last(parts, "pixel")
    for key in ("global_step", "epoch", "ema_images", "lr_schedulers"):
        assert a[key] == b[key], key
    loop_a, loop_b = (saved["loops"]["fit_loop"] for saved in (a, b))
    assert loop_a[PROGRESS] == loop_b[PROGRESS] and place_in(a) == place_in(b)
    assert a["state_dict"].keys() == b["state_dict"].keys()


def test_more_processes_than_a_step_has_images_is_one_line(data, tmp_path, capsys):
    words = arguments(data, tmp_path, "pixel", "data.params.batch_size=1", "--max_steps")
    assert main.main([*words, "1"]) == 0
    refused = [*words, "2", "--devices", "2", "--strategy", "ddp"]
    environment = os.environ | {"MASTER_PORT": str(20001 + os.getpid() % 20000)}
    done = subprocess.run(
        [sys.executable, "main.py", *refused],
        capture_output=True, text=True, timeout=300, env=environment,
    )  # fmt: skip
    assert done.returncode == 2 and "1 images, which 2 processes cannot share" in done.stderr
    assert done.stderr.count("\n") == 1
