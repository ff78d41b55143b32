"""The image without a container engine: its files, its steps, and how its process behaves, in a sandbox (sandbox.py)."""

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import tomllib
from pathlib import Path

import pytest
import sandbox
import tiny

from solvers.run import heart

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text()


def copied() -> list[tuple[list[str], str]]:
    """The COPY lines: sources and where they go, below /app."""
    return [
        (words[:-1], words[-1])
        for line in re.findall("^COPY (.*)$", DOCKERFILE, re.M)
        if (words := line.split())
    ]


@pytest.fixture(scope="module")
def app(tmp_path_factory) -> Path:
    """/app as the COPY lines make it."""
    where = tmp_path_factory.mktemp("image") / "app"
    for sources, place in copied():
        for source in (path for pattern in sources for path in ROOT.glob(pattern)):
            target = where / place / source.name if place.endswith("/") else where / place
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(
                    source,
                    target,
                    dirs_exist_ok=True,
                    ignore=shutil.ignore_patterns("__pycache__", "*.ckpt"),
                )
            else:
                shutil.copy(source, target)
    return where


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Path:
    """A fresh virtual environment that sees the packages installed here: without a network there are no others."""
    where = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", where], check=True)
    (packages,) = where.glob("lib/python*/site-packages")
    (packages / "installed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return where


def boxed(words: list[str], app: Path, environment: Path, mounts=(), **variables: str) -> list[str]:
    """In the image, as far as there can be one: its files, its variables, a fresh environment."""
    seen = [
        *mounts,
        (Path(sysconfig.get_paths()["purelib"]), sysconfig.get_paths()["purelib"], True),
    ]
    given = dict(pair.split("=") for pair in re.search(r"^ENV (.*)$", DOCKERFILE, re.M)[1].split())
    return sandbox.command(
        words, seen, {**given, "PIP_NO_INDEX": "1", **variables}, app, environment
    )


def test_every_source_is_here_and_nothing_is_forgotten():
    sources = [source for sources, _ in copied() for source in sources]
    assert {"ldm", "solvers", "configs", "models", "scripts"} <= set(sources)
    assert all(list(ROOT.glob(source)) for source in sources), sources
    assert not re.search("^(ADD|USER root)", DOCKERFILE, re.M) and re.search(
        r"^USER 65532:65532$", DOCKERFILE, re.M
    )
    assert re.search(r'^ENTRYPOINT \["tini", "--", "python"\]$', DOCKERFILE, re.M)


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed")
def test_hadolint():
    subprocess.run(["hadolint", ROOT / "deploy/Dockerfile"], check=True)


@sandbox.needs
def test_the_dependencies_are_those_of_pyproject(app, environment, tmp_path):
    """The image's own step, in a fresh environment, without a network; what it asks pip for is all of pyproject.toml's."""
    (tmp_path / "t").mkdir()
    words = ["sh", "deploy/install.sh", "dependencies", "formats"]
    mounts = [(tmp_path / "t", "/t", False)]
    subprocess.run(boxed(words, app, environment, mounts, TMPDIR="/t"), check=True, timeout=300)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["formats"]]
    assert (tmp_path / "t/wanted").read_text().splitlines() == wanted
    wrong = subprocess.run(
        boxed(["sh", "deploy/install.sh", "instal"], app, environment),
        capture_output=True,
        text=True,
    )
    assert wrong.returncode == 2 and "dependencies or check is allowed" in wrong.stderr


def python_in(process: subprocess.Popen) -> int:
    """The process id of what a sandbox runs, as it is known outside."""
    found = [process.pid]
    while True:
        below = [
            child
            for pid in found
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
        if not below:
            return int(found[-1])
        found = below


@pytest.mark.slow
@sandbox.needs
def test_the_program_runs_and_a_signal_reaches_it_within_a_second(app, environment, tmp_path):
    """The demo, and a run that is asked to stop: another user id, a read-only root, no network."""
    subprocess.run(
        boxed(["sh", "deploy/install.sh", "check"], app, environment), check=True, timeout=500
    )
    (tmp_path / "results").mkdir()
    mounts = [(tmp_path / "results", "/results", False)]
    demo = boxed(
        ["python", "sample.py", "--limit", "1", "--save-dir", "/results/demo"],
        app,
        environment,
        mounts,
    )
    done = subprocess.run(demo, capture_output=True, text=True, timeout=590)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(tiny.records(tmp_path / "results/demo")) == 1
    long = ["python", "sample.py", "--save-dir", "/results/long", "solver.params.steps=5000"]
    process = subprocess.Popen(boxed(long, app, environment, mounts), stderr=subprocess.DEVNULL)
    while process.poll() is None and not heart.workers(tmp_path / "results/long"):
        time.sleep(0.2)
    time.sleep(2)
    began = time.monotonic()
    os.kill(python_in(process), signal.SIGTERM)
    while process.poll() is None and "ended" not in heart.workers(tmp_path / "results/long")[0]:
        time.sleep(0.01)
    heard = time.monotonic() - began
    assert process.wait(timeout=60) == 143
    took = time.monotonic() - began
    print(
        f"SIGTERM to the last sign of life: {heard:.2f} s; to the end of the process: {took:.2f} s"
    )
    assert heard <= 1  # the rest is Python's own end, which frees torch's memory
