"""k-space as BART's pairs of files (see `bart_array`).

Dimensions 0, 1, 2 are readout, phase, partition; 3 coils; 13 slices. Lines that are all 0 were not measured. Along a trajectory
dimension 0 is 1, and 1 and 2 are samples and shots; the trajectory is the one that the YAML names, or `<stem>-traj.cfl` beside
the file. BART keeps no place in space: spacing can be given by a YAML of the same name (see `description`).
"""

from pathlib import Path

import numpy as np

from data.files import Refusal
from data.formats.kspace import trajectory
from data.formats.kspace.bart_array import DIMENSIONS, load
from data.formats.kspace.description import Description, along_trajectory, described, slice_of
from data.formats.kspace.raw import Raw, sampled

PARTITION, COIL, SLICE = 2, 3, 13


def count(path: Path) -> int:
    return _mapped(path, _said(path)).shape[SLICE]


def read(path: Path, index: int) -> Raw:
    said = _said(path)
    data = _mapped(path, said)
    slices, one = data.shape[SLICE], data.take(index, SLICE)
    if said.trajectory:
        kspace = np.array(one.reshape(*data.shape[1:4]).transpose(2, 1, 0))
        k = trajectory.load(said.folder / said.trajectory)
        return along_trajectory(said, path, kspace, k, index, slices)
    kspace = np.array(one.reshape(*data.shape[:2], data.shape[COIL]).transpose(2, 0, 1))
    return slice_of(said, path, kspace, sampled(kspace), index, slices)


def _said(path: Path) -> Description:
    """What its YAML says, and the trajectory beside it where that says none."""
    said = described(path.with_suffix(".yaml"))
    beside = path.with_name(f"{path.stem}-traj.cfl")
    if said.trajectory or not beside.is_file():
        return said
    return said.with_trajectory(beside)


def _mapped(path: Path, said: Description) -> np.ndarray:
    data = load(path)
    along_shots = data.shape[0] == 1 < data.shape[1]
    if along_shots and not said.trajectory:
        raise Refusal(
            f"{path}: samples along a trajectory; `trajectory: FILE` in {path.stem}.yaml, or {path.stem}-traj.cfl, is allowed"
        )
    if said.trajectory and not along_shots:
        raise Refusal(
            f"{path}: {data.shape[:4]} along a trajectory; [1, samples, shots, coils] is allowed"
        )
    if data.shape[PARTITION] > 1 and not along_shots:
        raise Refusal(
            f"{path}: {data.shape[PARTITION]} partitions (3-D k-space); make slices of them first: bart fft -iu 4"
        )
    known = (0, 1, PARTITION, COIL, SLICE)
    others = [d for d in range(DIMENSIONS) if d not in known and data.shape[d] > 1]
    if others:
        raise Refusal(
            f"{path}: more than one entry along dimensions {others}; readout, phase, coils and slices are allowed"
        )
    return data
