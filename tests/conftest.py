"""Tests that fork do so in a process of their own, where other tests of the same worker have run."""

import os
import subprocess
import sys

import pytest

WORKER = "PYTEST_XDIST_WORKER"


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """A worker has threads of earlier tests (gradio, TensorBoard, kernels), and a fork keeps for ever the locks they hold."""
    if WORKER not in os.environ or pyfuncitem.get_closest_marker("forks") is None:
        return None
    alone = [sys.executable, "-m", "pytest", "-q", "-m", "", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*alone, pyfuncitem.nodeid],
        cwd=pyfuncitem.config.rootpath,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    return True
