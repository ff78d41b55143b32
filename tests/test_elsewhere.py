"""Nothing is left on the CPU: `tests/elsewhere_cases.py`, in a process of its own because its device stays for good."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch.utils.backend_registration

CASES = Path(__file__).parent / "elsewhere_cases.py"


@pytest.mark.skipif(
    not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="needs a newer torch",
)
@pytest.mark.parametrize("which", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_another_device(which: str):
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        which,
        "-p",
        "no:cacheprovider",
        str(CASES),
    ]
    run = subprocess.run(command, cwd=CASES.parents[1], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr
