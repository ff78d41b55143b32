"""Who started this process, as which of how many, and under which name: read from the environment, before anything meets.

torchrun, Slurm's srun and Lightning itself start one process for each device; PyTorchJob and Run:AI's distributed jobs start
one for each pod, which Lightning multiplies by its devices (`adopt`). A job's name is what stays the same when a scheduler
takes its machine away and starts it again on another: run folders are called after it.
"""

import re
import signal
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from data.files import Refusal

INTERACTIVE = (
    "bash",
    "interactive",
)  # Slurm's names for a shell, whose variables say nothing of what is started in it


@dataclass(frozen=True)
class Topology:
    """launcher: what started the processes; "": nothing did, this is the only one so far. size: of all of them.

    pods: they are one for each node, and not yet one for each device. job: a name that survives preemption; "": there is none.
    scheduled: something starts the same command again after it was stopped. restarts: how often it has.
    """

    launcher: str = ""
    rank: int = 0
    size: int = 1
    node: int = 0
    nodes: int = 1
    pods: bool = False
    job: str = ""
    scheduled: bool = False
    restarts: int = 0

    def __str__(self) -> str:
        nodes = f"{self.nodes} node{'s' * (self.nodes > 1)}"
        counted = nodes if self.pods else f"{self.size} process{'es' * (self.size > 1)} on {nodes}"
        words = [f"{counted} by {self.launcher}" if self.launcher else counted]
        words += [f"job {self.job}"] if self.job else []
        words += [f"start {self.restarts + 1}"] if self.restarts else []
        return "topology: " + ", ".join(words)

    def check(self, devices: object, nodes: int, gpus: int | None = None) -> None:
        """Raise Refusal, in one line, for --devices and --num-nodes that cannot be had here.

        gpus: of this machine, if it is they that are asked for. devices: a number; Lightning looks at other words.
        """
        if not isinstance(devices, int) or devices < 1:
            return
        asked = f"--devices {devices} and --num-nodes {nodes}"
        if self.launcher and self.pods and self.nodes != nodes:
            raise Refusal(f"{self.launcher} started {self.nodes} nodes, {asked} ask for {nodes}")
        if self.launcher and not self.pods and self.size != devices * nodes:
            raise Refusal(
                f"{self.launcher} started {self.size} processes, {asked} ask for {devices * nodes}"
            )
        if gpus is not None and devices > gpus:
            raise Refusal(
                f"--devices {devices}: this machine has {gpus} GPU{'s' * (gpus != 1)}; at most {gpus or 'none'} can be used"
            )


def detect(environment: Mapping[str, str]) -> Topology:
    """What the variables say. Raises Refusal for numbers that contradict each other."""
    job, scheduled = _job(environment)

    def number(key: str, default: int) -> int:
        text = environment.get(key, "")
        if text and not re.fullmatch(r"\d{1,9}", text):
            raise Refusal(f"the environment's {key} is {text!r}, not a whole number")
        return int(text) if text else default

    restarts = number("TORCHELASTIC_RESTART_COUNT", 0) or number("SLURM_RESTART_COUNT", 0)
    known: dict[str, Any] = {"job": job, "scheduled": scheduled, "restarts": restarts}
    if "TORCHELASTIC_RUN_ID" in environment:
        size, local = number("WORLD_SIZE", 1), number("LOCAL_WORLD_SIZE", 1)
        found = Topology(
            "torchrun",
            number("RANK", 0),
            size,
            number("GROUP_RANK", 0),
            max(size // max(local, 1), 1),
            **known,
        )
    elif (
        "SLURM_NTASKS" in environment and "SLURM_PROCID" in environment and not _shell(environment)
    ):
        found = Topology(
            "Slurm", number("SLURM_PROCID", 0), number("SLURM_NTASKS", 1), number("SLURM_NODEID", 0),
            number("SLURM_NNODES", 1), **known,
        )  # fmt: skip
    elif {
        "MASTER_ADDR",
        "RANK",
        "WORLD_SIZE",
    } <= environment.keys() and "LOCAL_RANK" not in environment:
        each = environment.get("PET_NPROC_PER_NODE", "1")
        nodes = number(
            "PET_NNODES",
            number("WORLD_SIZE", 1) // (int(each) if each.isdigit() and each != "0" else 1),
        )
        node = number("PET_NODE_RANK", number("RANK", 0))
        found = Topology(
            "Run:AI" if _runai(environment) else "PyTorchJob",
            node,
            nodes,
            node,
            nodes,
            pods=True,
            **known,
        )
    else:
        return Topology(**known)
    if found.rank >= found.size:
        raise Refusal(
            f"{found.launcher} says that this is process {found.rank} of {found.size}; they count from 0"
        )
    return found


def adopt(found: Topology, environment: MutableMapping[str, str]) -> None:
    """Tell Lightning which node this is, where one process a pod was started: it starts the others, one for each device."""
    if found.pods:
        environment["NODE_RANK"] = str(found.node)
        for key in ("RANK", "WORLD_SIZE"):  # of pods; Lightning takes them for those of processes
            environment.pop(key, None)


def heed() -> None:
    """A scheduler's word to stop ends the program with 143 at once: what is committed stays, and the rest is done again."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda *_: sys.exit(128 + signal.SIGTERM))


def _job(environment: Mapping[str, str]) -> tuple[str, bool]:
    """The job's name, and whether something will start it again."""
    if name := environment.get("PALIMPSEST_JOB"):
        return _safe(name), True
    if _runai(environment):
        name, uuid = environment.get("JOB_NAME", ""), environment.get("JOB_UUID", "")
        return _safe("-".join(filter(None, (name, uuid[:8])))), True
    if "SLURM_JOB_ID" in environment and not _shell(environment):
        number = environment.get("SLURM_ARRAY_JOB_ID") or environment["SLURM_JOB_ID"]
        return _safe(f"{environment.get('SLURM_JOB_NAME', 'job')}-{number}"), True
    return "", "KUBERNETES_SERVICE_HOST" in environment or "TORCHELASTIC_RUN_ID" in environment


def _runai(environment: Mapping[str, str]) -> bool:
    return "JOB_UUID" in environment or any(key.startswith("RUNAI_") for key in environment)


def _shell(environment: Mapping[str, str]) -> bool:
    return environment.get("SLURM_JOB_NAME") in INTERACTIVE


def _safe(name: str) -> str:
    """As a folder may be called."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip(".-")[:100]
