"""One job file as every cluster takes it: scripts and manifests, printed or written; nothing is submitted.

    python scripts/render_job.py sample --for kubernetes | kubectl apply -f -
    python scripts/render_job.py train --for slurm gpus=4 nodes=2 > train.sh && sbatch train.sh
    python scripts/render_job.py my/job.yaml --for runai image=registry/mine > job.sh && bash job.sh
    python scripts/render_job.py sample --for docker --out jobs/        # writes jobs/sample.docker.sh

A job is a name in configs/jobs/ or a YAML file (scripts/job_file.py says what it holds); key=value goes before what it says.
Exit codes: 0 done, 2 a mistake (one line).
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import job_kubernetes
import job_shells
from job_file import Job, load

from data.files import Refusal, commit
from solvers.run import door
from solvers.run.command import Parser

FORMS: dict[str, tuple[Callable[[Job], str], str]] = {
    "runai": (job_shells.runai, "sh"),
    "runai-legacy": (job_shells.runai_legacy, "sh"),
    "kubernetes": (job_kubernetes.text, "yaml"),
    "slurm": (job_shells.slurm, "sh"),
    "docker": (job_shells.docker, "sh"),
}


def main(argv: Sequence[str]) -> int:
    return door.run("render_job.py", argv, lambda: show(argv))


def show(argv: Sequence[str]) -> None:
    parser = Parser("render_job.py", __doc__)
    parser.add_argument("job", metavar="JOB", help="a name in configs/jobs/, or a YAML file")
    parser.add_argument(
        "changes", nargs="*", metavar="key=value", help="instead of what the file says"
    )
    parser.add_argument(
        "--for", dest="cluster", required=True, choices=FORMS, help="what it is to run on"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write a file there instead of printing it"
    )
    options = parser.parse_intermixed_args(argv)
    job = load(options.job, options.changes)
    render, suffix = FORMS[options.cluster]
    text = render(job)
    if options.out is None:
        print(text, end="")
        return
    path = options.out / f"{job.name}.{options.cluster}.{suffix}"
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refusal(f"--out: {options.out}: {error.strerror}") from None
    commit(path, text)
    print(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
