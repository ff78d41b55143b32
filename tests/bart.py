"""BART, the independent hand: its commands on arrays. Tests that need it are skipped where it is not installed."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from data.formats.kspace import bart_array

needed = pytest.mark.skipif(shutil.which("bart") is None, reason="Debian's bart is not installed")


def run(folder: Path, command: str, raw: bool = False, **arrays: np.ndarray) -> np.ndarray:
    """`bart COMMAND`, in which {name} stands for an array [H,W] or [coils,H,W] and {out} for the result, which is returned as
    such, or with all dimensions as BART has them (raw)."""
    names = {"out": folder / "out"}
    for name, array in arrays.items():
        names[name] = folder / name
        write(names[name], array)
    subprocess.run(
        ["bart", *command.format(**names).split()], check=True, capture_output=True, timeout=300
    )
    data = np.array(bart_array.load(folder / "out.cfl"))
    if raw:
        return data.reshape(data.shape[:4])
    return data.reshape(*data.shape[:2], data.shape[3]).transpose(2, 0, 1)


def write(name: Path, array: np.ndarray) -> None:
    """[coils,H,W] as BART has them: readout, phase, 1, coils."""
    array = array[None] if array.ndim == 2 else array
    coils, h, w = array.shape
    name.with_suffix(".hdr").write_text(f"# Dimensions\n{h} {w} 1 {coils}\n")
    name.with_suffix(".cfl").write_bytes(
        array.transpose(1, 2, 0).astype(np.complex64).tobytes(order="F")
    )
