"""A job: what runs, with what around it. One file, which `render_job.py` turns into the form of every cluster.

    name: knee-sr                # of the run: lower case, digits and dashes, as Kubernetes names things
    image: registry/palimpsest   # the container image
    project: team                # Run:AI's project, Kubernetes' namespace, Slurm's account
    command: [sample.py, --task, super_resolution, --data-root, /data, --save-dir, /results/knee-sr]
    gpus: 1                      # on each node; cpus and memory too
    nodes: 1                     # sample.py's share the images by files, main.py's meet over the network
    volumes:                     # mounts; `host` is a folder of the machines, `claim` of Kubernetes, made if it has a `size`
      - {mount: /data, host: /shared/scans, claim: scans, read_only: true}

What else there may be, with what it is otherwise, is in `Job`.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from data.bounded_yaml import read_yaml
from data.files import Refusal, nearest

HOME = Path(__file__).resolve().parents[1] / "configs/jobs"
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,48}[a-z0-9])?")
WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
SIZE = re.compile(r"[1-9]\d*(\.\d+)?[KMGT]i?")
PLACE = re.compile(r"/[^\s:,]+")
FILES = "/job"  # where the container finds the job's own files
SHARED = ("main.py", "sample.py")  # programs that know of devices and nodes


@dataclass(frozen=True)
class Volume:
    """A folder in the container. host: of the machine. claim: a Kubernetes volume claim; size: it is made, this large."""

    mount: str
    host: str = ""
    claim: str = ""
    size: str = ""
    read_only: bool = False


@dataclass(frozen=True)
class Job:
    """What a job file says, checked."""

    name: str
    image: str
    command: tuple[str, ...]  # words after `python`
    project: str = ""
    gpus: int = 1  # on each node
    cpus: int = 8  # on each node
    memory: str = "64G"  # on each node
    nodes: int = 1
    preemptible: bool = True
    retries: int = 100  # starts after failures of the machine; a wrong command (exit code 2) is not tried again
    grace: int = 120  # seconds between the word to stop and the end
    hours: int = 0  # the longest that it may take; 0: as long as the cluster lets it
    volumes: tuple[Volume, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(
        default_factory=dict
    )  # small texts, which the container finds in /job

    @property
    def program(self) -> str:
        return self.command[0]

    @property
    def independent(self) -> bool:
        """Whether its nodes work without meeting each other: they share a folder of results."""
        return self.program == "sample.py" and self.nodes > 1

    @property
    def words(self) -> list[str]:
        """The words after `python`, with what the program must know of its processes."""
        return [*self.command, *self._processes()]

    @property
    def variables(self) -> dict[str, str]:
        """What the container's environment holds beside its own. The name is the same after a preemption."""
        return {"JOB_NAME": self.name, "PALIMPSEST_JOB": self.name, **self.environment}

    def _processes(self) -> list[str]:
        if self.program not in SHARED or any(word.startswith("--devices") for word in self.command):
            return []
        words = ["--devices", str(max(self.gpus, 1))]
        if self.independent:
            return [*words, "--join"]
        return [*words, "--num-nodes", str(self.nodes)] if self.nodes > 1 else words


def load(which: str, changes: Sequence[str] = ()) -> Job:
    """A job by its name in configs/jobs/ or its file; changes: `gpus=4`, over what the file says. Raises Refusal."""
    path = Path(which) if which.endswith((".yaml", ".yml")) else HOME / f"{which}.yaml"
    if not path.is_file():
        raise Refusal(
            f"{which}: no such job{nearest(which, (p.stem for p in HOME.glob('*.yaml')))}"
        )
    content = read_yaml(path.read_text(), path)
    if not isinstance(content, dict):
        raise Refusal(f"{path}: holds no job: keys and values are allowed")
    for change in changes:
        key, sign, value = change.partition("=")
        if not sign:
            raise Refusal(f"{change!r} is not of the form key=value")
        content[key] = read_yaml(value, change)
    return checked(content, path)


def checked(content: dict[str, Any], path: Path) -> Job:
    """The job of a file's content. Raises Refusal, naming file and key."""
    known = {one.name: one for one in fields(Job)}
    for key in content:
        if key not in known:
            raise Refusal(f"{path}: {key}: unknown key{nearest(str(key), known)}")
    for key, one in known.items():
        if key not in content and one.default is MISSING and one.default_factory is MISSING:
            raise Refusal(f"{path}: {key} is missing")
    made = {key: RULES[key](value, f"{path}: {key}") for key, value in content.items()}
    job = Job(**made)
    if job.nodes > 1 and job.program not in SHARED:
        raise Refusal(
            f"{path}: nodes: {job.program} runs on one node; {' and '.join(SHARED)} on several"
        )
    places = [volume.mount for volume in job.volumes] + [FILES] * bool(job.files)
    if len(set(places)) < len(places):
        raise Refusal(f"{path}: volumes: two have the same mount ({', '.join(sorted(places))})")
    return job


def matching(pattern: re.Pattern, what: str):
    def check(value: Any, where: str) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise Refusal(f"{where}: {value!r} is not {what}")
        return value

    return check


def counted(least: int):
    def check(value: Any, where: str) -> int:
        if type(value) is not int or value < least:
            raise Refusal(f"{where}: {value!r} is not a whole number from {least}")
        return value

    return check


def truth(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise Refusal(f"{where}: {value!r} is neither true nor false")
    return value


def worded(value: Any, where: str) -> tuple[str, ...]:
    words = shlex.split(value) if isinstance(value, str) else value
    if (
        not isinstance(words, list)
        or not words
        or not all(isinstance(word, (str, int, float)) for word in words)
    ):
        raise Refusal(
            f"{where}: the words after `python` are allowed, like [sample.py, --task, super_resolution]"
        )
    texts = tuple(map(str, words))
    if not texts[0].endswith(".py"):
        raise Refusal(
            f"{where}: {texts[0]!r} is no program; it begins with main.py, sample.py or scripts/….py"
        )
    return texts


def mounted(value: Any, where: str) -> tuple[Volume, ...]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise Refusal(
            f"{where}: a list of mounts is allowed, like {{mount: /data, host: /shared/scans}}"
        )
    made = []
    for number, one in enumerate(value, 1):
        here = f"{where}, {number}"
        for key in one:
            if key not in VOLUME:
                raise Refusal(f"{here}: {key}: unknown key{nearest(str(key), VOLUME)}")
        volume = Volume(
            **{
                "mount": "",
                **{key: VOLUME[key](text, f"{here}: {key}") for key, text in one.items()},
            }
        )
        if not volume.mount or not (volume.host or volume.claim):
            raise Refusal(f"{here}: needs a mount, and a host folder or a claim")
        made.append(volume)
    return tuple(made)


def mapped(keys: re.Pattern, what: str):
    def check(value: Any, where: str) -> dict[str, str]:
        if not isinstance(value, dict) or not all(
            isinstance(key, str) and keys.fullmatch(key) for key in value
        ):
            raise Refusal(f"{where}: a mapping of {what} to texts is allowed")
        return {
            key: text if isinstance(text, str) else yaml.safe_dump(text, sort_keys=False)
            for key, text in value.items()
        }

    return check


def valued(value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(
        isinstance(v, (str, int, float)) for v in value.values()
    ):
        raise Refusal(f"{where}: a mapping of variables to values is allowed")
    return mapped(WORD, "variables")({key: str(text) for key, text in value.items()}, where)


name = matching(NAME, "a name of lower-case letters, digits and dashes, at most 50")
size = matching(SIZE, "a size like 64G or 500Gi")
place = matching(PLACE, "an absolute path without spaces, commas and colons")
word = matching(re.compile(r"[^\s]+"), "one word")
VOLUME = {"mount": place, "host": place, "claim": name, "size": size, "read_only": truth}
RULES: dict[str, Any] = {
    "name": name,
    "image": word,
    "command": worded,
    "project": word,
    "gpus": counted(0),
    "cpus": counted(1),
    "memory": size,
    "nodes": counted(1),
    "preemptible": truth,
    "retries": counted(0),
    "grace": counted(1),
    "hours": counted(0),
    "volumes": mounted,
    "environment": valued,
    "files": mapped(FILE, "file names"),
}
