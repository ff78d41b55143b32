"""A plan for many images on many GPUs, played through: queue, signs of life, preemption, writing (discrete events, simpy).

    python scripts/simulate_cluster.py                                    # a million slices on 64 GPUs
    python scripts/simulate_cluster.py --images 8000 --gpus 8 --seconds 900 --spread 0.5        # volumes
    python scripts/simulate_cluster.py --gpus 8 64 512 --fixed            # shares dealt out beforehand, for comparison
    python scripts/simulate_cluster.py --gpus 64 --lock 0.02 --batch 1    # where the queue itself becomes the bound

Every GPU takes a batch from the queue (one at a time, --lock seconds each), works --seconds an image with a spread (log-normal),
and writes (--disks at once, --write seconds an image). A preemption, --preemptions a day and GPU, takes the GPU away inside a
batch, which is lost; its images are free again after --lease seconds, and another GPU comes after --return seconds. What is
put in is measured elsewhere (docs/scale.md says where); what comes out is the plan.
Exit codes: 0 done, 2 a mistake (one line).
"""

import math
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.files import Refusal
from solvers.run import door
from solvers.run.command import Parser, whole
from solvers.run.values import between

DAY = 86400.0


@dataclass(frozen=True)
class Plan:
    """What is put in. Times in seconds."""

    images: int = 1_000_000
    gpus: int = 64
    seconds: float = 5.0  # an image, on one GPU
    spread: float = 0.2  # standard deviation of the logarithm of that
    batch: int = 8
    write: float = 0.05  # an image, on one of the disks
    disks: int = 8  # images written at once
    lock: float = 0.001  # to take a batch from the queue
    preemptions: float = 2.0  # a day and GPU
    lease: float = 600.0
    back: float = 300.0  # until another GPU is there, with the program started
    fixed: bool = False  # every GPU has its own share of the batches, and nobody else's
    seed: int = 0


@dataclass
class Outcome:
    """What comes out."""

    hours: float = 0.0
    busy: float = 0.0  # share of the GPUs' time in which they work on images that count
    lost: int = 0  # images computed twice, because a preemption took the first ones away
    preempted: int = 0
    waits: float = 0.0  # share of the GPUs' time spent waiting for the queue's lock
    blocked: float = 0.0  # and for a disk
    done: set[int] = field(default_factory=set)


def simulate(plan: Plan) -> Outcome:
    """Play a plan through. Raises Refusal for one that ends never."""
    import simpy

    chance, out = random.Random(plan.seed), Outcome()
    world = simpy.Environment()
    lock, disks = simpy.Resource(world, 1), simpy.Resource(world, plan.disks)
    batches = math.ceil(plan.images / plan.batch)
    size = [plan.batch] * batches
    size[-1] = plan.images - plan.batch * (batches - 1)
    queues: list[list[int]] = [list(range(batches - 1, -1, -1))]
    if plan.fixed:
        queues = [list(range(batches - 1, -1, -1))[gpu :: plan.gpus] for gpu in range(plan.gpus)]
    mean = math.log(plan.seconds) - plan.spread**2 / 2
    rate = plan.preemptions / DAY
    worked = waited = stood = 0.0
    finished = world.event()

    def returned(queue: list[int], number: int) -> Iterator[Any]:
        yield world.timeout(0 if plan.fixed else plan.lease)
        queue.append(number)

    def gpu(own: int) -> Iterator[Any]:
        nonlocal worked, waited, stood
        queue = queues[own % len(queues)]
        taken_away = world.now + chance.expovariate(rate) if rate else math.inf
        while len(out.done) < batches and not (plan.fixed and not queue):
            begun = world.now
            with lock.request() as turn:
                yield turn
                yield world.timeout(plan.lock)
                number = queue.pop() if queue else None
            waited += world.now - begun - plan.lock
            if number is None:  # others are at the last ones
                yield world.timeout(5.0)
                continue
            length = sum(chance.lognormvariate(mean, plan.spread) for _ in range(size[number]))
            if world.now + length > taken_away:
                out.preempted += 1
                out.lost += (
                    min(int((taken_away - world.now) / plan.seconds), size[number])
                    if taken_away > world.now
                    else 0
                )
                world.process(returned(queue, number))
                yield world.timeout(max(taken_away - world.now, 0.0) + plan.back)
                taken_away = world.now + chance.expovariate(rate)
                continue
            yield world.timeout(length)
            worked += length
            begun = world.now
            with disks.request() as turn:
                yield turn
                stood += world.now - begun
                yield world.timeout(plan.write * size[number])
            out.done.add(number)
            if len(out.done) == batches:
                finished.succeed()

    for own in range(plan.gpus):
        world.process(gpu(own))
    world.run(until=finished)
    total = world.now * plan.gpus
    out.hours, out.busy, out.waits, out.blocked = (
        world.now / 3600,
        worked / total,
        waited / total,
        stood / total,
    )
    return out


def line(plan: Plan, out: Outcome) -> str:
    """One row of the table."""
    rate = plan.images / (out.hours * 3600)
    return (
        f"{plan.gpus:>5} {out.hours:>9.1f} {rate:>10.2f} {100 * out.busy:>7.1f} {out.preempted:>11} {out.lost:>8}"
        f" {100 * out.waits:>7.1f} {100 * out.blocked:>7.1f}"
    )


HEAD = " GPUs     hours   images/s  busy %  preemptions  again   lock %  disk %"


def main(argv: Sequence[str]) -> int:
    return door.run("simulate_cluster.py", argv, lambda: show(argv))


def show(argv: Sequence[str]) -> None:
    parser, normal = Parser("simulate_cluster.py", __doc__), Plan()
    add = parser.add_argument
    add("--gpus", type=whole, nargs="+", default=[normal.gpus], metavar="N")
    for name in ("images", "batch", "disks"):
        add(f"--{name}", type=whole, default=getattr(normal, name), metavar="N")
    for name, least in (
        ("seconds", 1e-3),
        ("spread", 0),
        ("write", 0),
        ("lock", 0),
        ("preemptions", 0),
        ("lease", 0),
    ):
        add(
            f"--{name}",
            type=lambda word, least=least: between(word, least, 1e6),
            default=getattr(normal, name),
            metavar="X",
        )
    add(
        "--return",
        dest="back",
        type=lambda word: between(word, 0, 1e6),
        default=normal.back,
        metavar="S",
    )
    add("--fixed", action="store_true", help="fixed shares instead of one queue")
    add("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    if options.preemptions and options.seconds * options.batch > 20 * DAY / options.preemptions:
        raise Refusal(
            "--batch: a batch takes 20 times as long as a GPU is kept on average; this ends never"
        )
    print(HEAD)
    for gpus in options.gpus:
        names = (key for key in Plan.__dataclass_fields__ if key != "gpus")
        plan = Plan(gpus=gpus, **{key: getattr(options, key) for key in names})
        print(line(plan, simulate(plan)), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
