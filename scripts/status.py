"""What a run's folder alone says of it: done, failed, how fast, how long still, and which processes are alive.

    python scripts/status.py results/knee-sr            # of sample.py
    python scripts/status.py logs/medical-sr/run1       # of main.py
    python scripts/status.py results/knee-sr --json     # the same for programs
    watch -n 30 python scripts/status.py results/knee-sr

A process counts as alive while its last sign of life is younger than --silence seconds, by the clock of the folder's own file
system. Exit codes: 0 all done or going on, 1 some images failed, 2 a mistake (one line), 3 nothing is alive and work is left.
"""

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.files import Refusal, json_lines, printable
from solvers.run import door
from solvers.run.command import Parser
from solvers.run.heart import RUN, WORKERS, workers
from solvers.run.values import seconds

LATELY = 600  # seconds without a sign of life that are not yet silence


def main(argv: Sequence[str]) -> int:
    return door.run("status.py", argv, lambda: show(argv))


def show(argv: Sequence[str]) -> int:
    parser = Parser("status.py", __doc__)
    parser.add_argument(
        "run", type=Path, metavar="RUN", help="a folder of results, or of a training run"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument(
        "--silence", type=seconds, default=LATELY, metavar="S", help=f"default: {LATELY}"
    )
    options = parser.parse_args(argv)
    found = status(options.run, options.silence)
    print(json.dumps(found) if options.json else text(found))
    return found["code"]


def status(folder: Path, silence: float = LATELY) -> dict[str, Any]:
    """The state of a run. Raises Refusal for a folder that is none."""
    beats = workers(folder)
    records, checkpoints = folder / "records.jsonl", folder / "checkpoints"
    if not (records.exists() or checkpoints.is_dir() or beats):
        raise Refusal(
            f"{folder}: no run: neither records.jsonl nor checkpoints/ nor a sign of life is there"
        )
    now = clock_of(folder)
    processes = []
    for facts in beats:
        age = max(now - (folder / RUN / WORKERS / f"{facts['worker']}.json").stat().st_mtime, 0.0)
        state = facts.get("ended") or ("alive" if age <= silence else "silent")
        processes.append({**facts, "state": state, "age": round(age, 1)})
    alive = [facts for facts in processes if facts["state"] == "alive"]
    found: dict[str, Any] = {"run": str(folder), "alive": len(alive), "processes": processes}
    found |= (
        images(folder, processes, alive)
        if records.exists() or not checkpoints.is_dir()
        else steps(checkpoints, processes, alive)
    )
    left = found.get("remaining")
    found["code"] = 1 if found.get("failed") else 3 if left and not alive else 0
    return found


def images(
    folder: Path, processes: list[dict[str, Any]], alive: list[dict[str, Any]]
) -> dict[str, Any]:
    """Of a restoration. What is left is what the processes that began last had before them, without what was done since."""
    last: dict[str, bool] = {}
    for record in (
        json_lines(folder / "records.jsonl") if (folder / "records.jsonl").exists() else ()
    ):
        last[record["image_id"]] = record["status"] == "ok"
    failed = sum(not good for good in last.values())
    left = max((facts.get("total", 0) for facts in processes), default=0) - sum(
        facts.get("done", 0) for facts in processes
    )
    rate = sum(facts.get("per_second", 0.0) for facts in alive)
    return {
        "kind": "restoration",
        "done": len(last) - failed,
        "failed": failed,
        **pace(max(left, 0), rate),
    }


def steps(
    checkpoints: Path, processes: list[dict[str, Any]], alive: list[dict[str, Any]]
) -> dict[str, Any]:
    """Of a training run."""
    newest = max(checkpoints.glob("*.ckpt"), key=lambda path: path.stat().st_mtime, default=None)
    facts = max(processes, key=lambda facts: facts.get("step", 0), default={})
    made, wanted = facts.get("step", 0), facts.get("steps", 0)
    rate = facts.get("steps_per_second", 0.0) if alive else 0.0
    known = {key: facts[key] for key in ("loss",) if key in facts}
    saved = (
        {
            "checkpoint": newest.name,
            "saved": time.strftime("%F %T", time.localtime(newest.stat().st_mtime)),
        }
        if newest
        else {}
    )
    return {
        "kind": "training",
        "step": made,
        "steps": wanted,
        **known,
        **saved,
        **pace(max(wanted - made, 0), rate),
    }


def pace(left: float, rate: float) -> dict[str, Any]:
    known = {"remaining": left, "per_second": round(rate, 4)}
    return known | ({"seconds_left": round(left / rate)} if left and rate else {})


def clock_of(folder: Path) -> float:
    """The time by the clock that stamps the folder's files; of one that cannot be written, this machine's."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            return Path(file.name).stat().st_mtime
    except OSError:
        return time.time()


def text(found: dict[str, Any]) -> str:
    """The same for people."""
    if found["kind"] == "training":
        words = [f"step {found['step']} of {found['steps'] or '?'}"]
        words += [f"loss {found['loss']:.4g}"] if "loss" in found else []
        words += (
            [f"{found['checkpoint']} of {found['saved']}"]
            if "saved" in found
            else ["no checkpoint yet"]
        )
    else:
        words = [f"{found['done']} done", f"{found['failed']} failed", f"{found['remaining']} left"]
    if found["per_second"]:
        words.append(f"{found['per_second']:.3g} a second")
    if "seconds_left" in found:
        words.append(f"{span(found['seconds_left'])} to go")
    lines = [f"{found['run']}: {', '.join(words)}; {found['alive']} alive"]
    for facts in found["processes"]:
        at = [f"at {facts['image']}"] if facts.get("image") else []
        at += [f"step {facts['step']}/{facts['steps']}"] if facts.get("steps") else []
        seen = f"seen {facts['age']:.0f} s ago"
        lines.append(
            f"  rank {facts.get('rank', 0)} on {facts.get('host')}: {facts['state']}, {', '.join([*at, seen])}"
        )
    return "\n".join(map(printable, lines))


def span(length: float) -> str:
    """93784 -> 1 d 2 h"""
    for size, unit, smaller, name in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if length >= size:
            return f"{int(length // size)} {unit} {int(length % size // smaller)} {name}"
    return f"{int(length)} s"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
