"""A job as a shell script: for both forms of Run:AI's command line, for Slurm, and for Docker on one machine."""

import shlex
from collections.abc import Iterable

from job_file import FILES, SHARED, Job, Volume

from data.files import Refusal

STRICT = "set -euo pipefail"


def runai(job: Job) -> str:
    """`runai training submit`, or for nodes that must meet `runai training pytorch submit`."""
    meeting = job.nodes > 1 and not job.independent
    words = [
        "runai",
        "training",
        *(["pytorch"] if meeting else []),
        "submit",
        job.name,
        "--image",
        job.image,
    ]
    words += named("--project", job.project)
    words += ["--gpu-devices-request", str(job.gpus)] if job.gpus else []
    words += [
        "--cpu-core-request",
        str(job.cpus),
        "--cpu-memory-request",
        job.memory,
        "--large-shm",
    ]
    if meeting:
        words += ["--workers", str(job.nodes - 1)]
        words += ["--master-gpu-devices-request", str(job.gpus)] if job.gpus else []
        words += [
            "--master-cpu-core-request",
            str(job.cpus),
            "--master-cpu-memory-request",
            job.memory,
        ]
        words += ["--restart-policy", "OnFailure", "--master-restart-policy", "OnFailure"]
    elif job.independent:
        words += ["--parallelism", str(job.nodes), "--completions", str(job.nodes)]
    words += ["--backoff-limit", str(job.retries), "--termination-grace-period", f"{job.grace}s"]
    words += ["--preemptibility", "preemptible" if job.preemptible else "non-preemptible"]
    for volume in job.volumes:
        end = "" if volume.read_only else ",readwrite"
        asked, place = (
            f"claimname={volume.claim},path={volume.mount}",
            f"path={volume.host},mount={volume.mount}{end}",
        )
        words += ["--existing-pvc", asked] if volume.claim else ["--host-path", place]
    for key, value in own(job):
        words += ["--environment-variable", f"{key}={value}"]
    return submitted(job, words)


def runai_legacy(job: Job) -> str:
    """`runai submit` of Run:AI's first command line; several nodes: `runai submit-dist pytorch`."""
    meeting = job.nodes > 1 and not job.independent
    words = [
        "runai",
        *(["submit-dist", "pytorch"] if meeting else ["submit"]),
        "--name",
        job.name,
        "--image",
        job.image,
    ]
    words += named("--project", job.project)
    words += ["--gpu", str(job.gpus), "--cpu", str(job.cpus), "--memory", job.memory, "--large-shm"]
    words += ["--workers", str(job.nodes - 1)] if meeting else []
    if job.independent:
        words += ["--parallelism", str(job.nodes), "--completions", str(job.nodes)]
    words += ["--backoff-limit", str(job.retries)]
    words += [] if job.preemptible else ["--interactive"]  # as it calls what is not preempted
    for volume in job.volumes:
        end = ":ro" if volume.read_only else ""
        place = f"{volume.host}:{volume.mount}{end}"
        asked = f"claimname={volume.claim},path={volume.mount}"
        words += ["--volume", place] if volume.host else ["--existing-pvc", asked]
    for key, value in own(job):
        words += ["--environment", f"{key}={value}"]
    return submitted(job, words)


def own(job: Job) -> list[tuple[str, str]]:
    """The job's variables without the one that Run:AI sets itself."""
    return [(key, value) for key, value in job.variables.items() if key != "JOB_NAME"]


def submitted(job: Job, words: list[str]) -> str:
    if job.files:
        raise Refusal(
            f"{job.name}: files: Run:AI's command line takes none; put them into a volume"
        )
    return script(["exec " + folded([*words, "--command", "--", "python", *job.words])])


def slurm(job: Job) -> str:
    """An sbatch script; sample.py's nodes are an array whose tasks share one folder.

    The word to stop comes `grace` seconds before the end (USR1), or when the job is preempted (TERM); 143 is the exit code of
    a program that has saved, and is queued again.
    """
    together = not job.independent
    ranks = max(job.gpus, 1) if job.program in SHARED else 1
    asked = [f"--job-name={job.name}"] + [f"--account={job.project}"] * bool(job.project)
    asked += [f"--nodes={job.nodes if together else 1}", f"--ntasks-per-node={ranks}"]
    asked += [
        f"--cpus-per-task={max(job.cpus // ranks, 1)}",
        f"--mem={job.memory.removesuffix('i')}",
    ]
    asked += [f"--gres=gpu:{job.gpus}"] if job.gpus else []
    asked += [f"--array=0-{job.nodes - 1}"] if job.independent else []
    asked += [f"--time={job.hours}:00:00"] if job.hours else []
    asked += [
        f"--signal=USR1@{job.grace}",
        "--requeue" if job.preemptible else "--no-requeue",
        "--open-mode=append",
    ]
    binds = [
        f"{host(volume)}:{volume.mount}{':ro' if volume.read_only else ''}"
        for volume in job.volumes
    ]
    inside = ["apptainer", "exec", *(["--nv"] if job.gpus else []), "--pwd", "/app"]
    inside += [part for place in binds for part in ("--bind", place)]
    lines = [f"#SBATCH {word}" for word in asked] + [STRICT]
    lines += [f"export {key}={shlex.quote(value)}" for key, value in job.variables.items()]
    lines += written(job, "${SLURM_SUBMIT_DIR:-.}")
    image = (
        job.image if job.image.endswith(".sif") or "://" in job.image else f"docker://{job.image}"
    )
    command = folded(["srun", "--kill-on-bad-exit=1", *inside])
    own = f' --bind "$files:{FILES}:ro"' if job.files else ""
    lines += [
        "code=0",
        f"{command}{own} {shlex.quote(image)} \\\n    python {folded(job.words)} || code=$?",
    ]
    if job.preemptible:
        lines += ['if [ "$code" -eq 143 ]; then scontrol requeue "$SLURM_JOB_ID"; fi']
    return script([*lines, 'exit "$code"'], strict=False)


def docker(job: Job) -> str:
    """One container on this machine, as the user who starts it; no network, nothing written but in the volumes and /tmp."""
    if job.nodes > 1:
        raise Refusal(
            f"{job.name}: nodes: Docker runs a job on one machine; {job.nodes} nodes need a cluster"
        )
    words = [
        "docker",
        "run",
        "--rm",
        "--init",
        "--name",
        job.name,
        "--read-only",
        "--tmpfs",
        "/tmp:exec",
    ]
    words += ["--network", "none", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    words += [
        "--cpus",
        str(job.cpus),
        "--memory",
        room(job.memory),
        "--shm-size",
        "8g",
        "--stop-timeout",
        str(job.grace),
    ]
    words += ["--gpus", str(job.gpus)] if job.gpus else []
    for volume in job.volumes:
        words += [
            "--volume",
            f"{volume.host or volume.claim}:{volume.mount}{':ro' if volume.read_only else ''}",
        ]
    words += [part for key, value in job.variables.items() for part in ("--env", f"{key}={value}")]
    own = f' --volume "$files:{FILES}:ro"' if job.files else ""
    start = "exec " + folded(words) + ' --user "$(id -u):$(id -g)"'
    return script(
        [
            *written(job, "${TMPDIR:-/tmp}"),
            f"{start}{own} \\\n    {folded([job.image, *job.words])}",
        ]
    )


def written(job: Job, below: str) -> list[str]:
    """Lines that write the job's own files into a folder, `$files`."""
    if not job.files:
        return []
    lines = [f'files="{below}/{job.name}-files"', 'mkdir -p "$files"']
    for name, content in job.files.items():
        lines.append(f'printf %s {shlex.quote(content)} > "$files/{name}"')
    return lines


def host(volume: Volume) -> str:
    if not volume.host:
        raise Refusal(
            f"volumes: {volume.mount}: Slurm knows no claims; name the folder of its machines (host)"
        )
    return volume.host


def room(memory: str) -> str:
    """64Gi -> 64g, Docker's way to write it."""
    return memory.removesuffix("i").lower()


def named(flag: str, value: str) -> list[str]:
    return [flag, value] if value else []


def folded(words: Iterable[str], width: int = 100) -> str:
    """Quoted words, in lines of about so many characters."""
    lines, line = [], ""
    for word in map(shlex.quote, words):
        if line and len(line) + len(word) > width:
            lines.append(line)
            line = ""
        line = f"{line} {word}".strip()
    return " \\\n    ".join([*lines, line])


def script(lines: Iterable[str], strict: bool = True) -> str:
    return "\n".join(["#!/usr/bin/env bash", *([STRICT] if strict else []), *lines]) + "\n"
