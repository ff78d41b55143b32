"""Whole runs against the clock: two processes against one, and how busy the network is. Rows of `benchmark.py scale`.

Every process has one thread, so that a machine of two idle cores is what the limits speak of: on one that does other work, the
figures say nothing. Start-up is left out: times are from the first batch to the last. As a program it is a door (sample.py or
main.py) whose times are noted: python scripts/benchmark_scale_runs.py sample FOLDER [words of sample.py].
"""

import json
import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmark_rows import Row

ROOT = Path(__file__).resolve().parents[1]
SIDE = 128  # pixels of an image
IMAGES = 16  # restored
STEPS = 8  # of the solver, each a network call
BATCHES = 12  # of training, of which the first two are not timed
BATCH = 8  # images of a training batch
WARM = 2


def images(folder: Path) -> Path:
    """A manifest of smooth random pictures."""
    chance = np.random.default_rng(0)
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    for number in range(IMAGES):
        a, b, c = chance.uniform(1, 9, 3)
        picture = 127 + 100 * np.sin(a * x + c) * np.cos(b * y - c)
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"{number:03d}.png")
    path = folder / "rows.csv"
    path.write_text("path\n" + "".join(f"{number:03d}.png\n" for number in range(IMAGES)))
    return path


def run(kind: str, folder: Path, *words: str) -> list[dict[str, Any]]:
    """What every process of a run noted."""
    folder.mkdir()
    words = (sys.executable, __file__, kind, str(folder), *words)
    free = {"OMP_NUM_THREADS": "1", "MASTER_PORT": str(20000 + os.getpid() % 20000)}
    done = subprocess.run(
        words, cwd=ROOT, env=os.environ | free, capture_output=True, text=True, timeout=600
    )
    if done.returncode:
        raise RuntimeError(f"{kind} ended with {done.returncode}: {done.stderr[-1000:]}")
    return [json.loads(path.read_text()) for path in sorted(folder.glob("rank*.json"))]


def restored(folder: Path, devices: int, *more: str) -> list[dict[str, Any]]:
    """A restoration by pnp with the shipped pixel prior."""
    task = ["--task", "inpainting_random", "--solver", "pnp", "--model", "demo-pixel"]
    asked = [*task, "--steps", str(STEPS), "--batch-size", "1", "--accelerator", "cpu"]
    own = folder / f"{devices}"
    return run(
        "sample", own, *asked, "--manifest", str(images(folder)), "--save-dir", str(own / "out"),
        "--devices", str(devices), *more,
    )  # fmt: skip


def sampling() -> Iterator[Row]:
    """Images a second, from the first batch that any process begins to the last that any has written."""
    rates = []
    for devices in (1, 2):
        with tempfile.TemporaryDirectory() as made:
            found = restored(Path(made), devices)
        assert len(found) == devices and sum(one["images"] for one in found) == IMAGES
        took = max(one["end"] for one in found) - min(one["begin"] for one in found)
        rates.append(IMAGES / took)
    what = "sampling, 2 processes of one thread against 1"
    yield Row(what, rates[1] / rates[0], 1.85, "x", at_least=True)


def training() -> Iterator[Row]:
    """Images a second, with as many images a process and step."""
    rates = []
    for devices in (1, 2):
        with tempfile.TemporaryDirectory() as made:
            data = images(Path(made))
            words = [
                "--base", "configs/pixel-diffusion/demo.yaml", "--train", "--logdir", f"{made}/logs",
                "--max_steps", str(BATCHES), "--accelerator", "cpu", "--devices", str(devices),
                "--enable_progress_bar", "false", "--limit_val_batches", "0",
                f"data.params.train={data}", f"data.params.validation={data}",
                f"data.params.batch_size={BATCH}",
            ]  # fmt: skip
            words += ["--strategy", "ddp"] * (devices > 1)
            times = run("main", Path(made) / f"{devices}", *words)[0]["batches"]
        rates.append(BATCH * devices * (BATCHES - WARM) / (times[-1] - times[WARM - 1]))
    what = "training, 2 processes of one thread against 1"
    yield Row(what, rates[1] / rates[0], 1.8, "x", at_least=True)


def busy() -> Iterator[Row]:
    """Of one process with one thread for the network, another that reads ahead, and a thread that writes behind."""
    with tempfile.TemporaryDirectory() as made:
        (found,) = restored(Path(made), 1, "--workers", "1")
    took = (found["end"] - found["begin"]) / 100
    yield Row("network busy, tiny network on two cores", found["network"] / took, 95, "%", True)
    what = "network and solver busy, not reading, measuring or writing"
    yield Row(what, found["drawing"] / took, 95, "%", True)


ROWS = (sampling, training, busy)


def noted(folder: Path, facts: dict[str, Any]) -> None:
    rank = os.environ.get("LOCAL_RANK", "0")
    (folder / f"rank{rank}.json").write_text(json.dumps(facts))


def watched_sample(folder: Path, words: list[str]) -> int:
    """sample.py, whose network calls, draws and batches are timed."""
    from solvers.run import module
    from solvers.run.draws import Drawing

    facts: dict[str, Any] = {"images": 0, "network": 0.0, "drawing": 0.0}
    started = [0.0]

    def begin(*_: object) -> None:
        started[0] = time.monotonic()

    def end(*_: object) -> None:
        facts["network"] += time.monotonic() - started[0]

    def predict_start(self) -> None:
        self.prior.denoiser.register_forward_pre_hook(begin)
        self.prior.denoiser.register_forward_hook(end)

    def predict_step(step: Callable, self, batch, *more):
        facts.setdefault("begin", time.monotonic())
        facts["images"] += len(batch)
        return step(self, batch, *more)

    def predict_end(self) -> None:
        noted(folder, facts | {"end": time.monotonic()})

    def draw(drawn: Callable, *given: Any):
        begun = time.monotonic()
        made = drawn(*given)
        facts["drawing"] += time.monotonic() - begun
        return made

    model, step, drawn = module.Reconstruction, module.Reconstruction.predict_step, Drawing.draw
    model.on_predict_start, model.on_predict_end = predict_start, predict_end  # type: ignore[method-assign]
    model.predict_step = lambda *given: predict_step(step, *given)  # type: ignore[method-assign]
    Drawing.draw = lambda *given: draw(drawn, *given)  # type: ignore[method-assign]
    return door("sample.py", words)


def watched_main(folder: Path, words: list[str]) -> int:
    """main.py, which notes when each batch ends."""
    from ldm.training.watching import Watched

    times: list[float] = []
    tell = Watched.on_train_batch_end

    def batch_end(self, *given: Any) -> None:
        tell(self, *given)
        times.append(time.monotonic())
        noted(folder, {"batches": times})

    Watched.on_train_batch_end = batch_end  # type: ignore[method-assign]
    return door("main.py", words)


def door(name: str, words: list[str]) -> int:
    """A door, in this process; Lightning starts the others by this file's own words."""
    return runpy.run_path(str(ROOT / name))["main"](words)


if __name__ == "__main__":
    kind, place, *rest = sys.argv[1:]
    sys.exit({"sample": watched_sample, "main": watched_main}[kind](Path(place), rest))
