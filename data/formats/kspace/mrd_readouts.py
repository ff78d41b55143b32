"""Readouts of an ISMRMRD file, put where they belong: on the Cartesian grid, or along their trajectory."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from data.files import Refusal
from data.formats import bounds
from data.formats.image import decoding
from data.formats.kspace.header import Header
from data.formats.kspace.trajectory import PIXELS, planar

REVERSE = 1 << 21  # flag of a readout that runs backwards


class Index(NamedTuple):
    """Where the readouts of each image are in the file."""

    header: Header
    images: Sequence[Sequence[int]]  # readouts of each image
    slices: int
    calibrations: Mapping[int, Sequence[int]]  # of each slice, where it has lines of their own
    noise: Sequence[int]
    heads: np.ndarray

    @property
    def cartesian(self) -> bool:
        return self.header.trajectory == "cartesian"


def filled(
    data: Any, found: Index, lines: Sequence[int], matrix: tuple[int, int], where: str
) -> tuple[np.ndarray, np.ndarray]:
    """k-space [coils,H,W] of some readouts, repeated lines averaged, and where it was measured."""
    rows, columns = matrix
    coils = int(found.heads[lines[0]]["active_channels"])
    bounds.check(where, (coils, rows, columns), 1, 8)
    kspace, times = (
        np.zeros((coils, rows, columns), np.complex64),
        np.zeros((rows, columns), np.int64),
    )
    centre = found.header.lines.centre if found.header.lines else columns // 2
    for line in lines:
        head, samples = found.heads[line], samples_of(data, line, where)
        if len(samples) != coils:
            raise Refusal(
                f"{where}: readout {line} has {len(samples)} coils, the first {coils}; the same number is allowed"
            )
        if not samples.any():
            raise Refusal(
                f"{where}: readout {line} (line {int(head['idx']['kspace_encode_step_1'])}) is all zeros though listed"
            )
        column = int(head["idx"]["kspace_encode_step_1"]) - centre + columns // 2
        first, stop = int(head["discard_pre"]), samples.shape[1] - int(head["discard_post"])
        middle = int(head["center_sample"])
        if int(head["flags"]) & REVERSE:
            samples, middle = samples[:, ::-1], samples.shape[1] - 1 - middle
            first, stop = int(head["discard_post"]), samples.shape[1] - int(head["discard_pre"])
        start = first - middle + rows // 2
        part = samples[:, first:stop]
        if not (0 <= column < columns and 0 <= start and start + part.shape[1] <= rows):
            size = f"{part.shape[1]} samples from {start}, column {column}"
            raise Refusal(
                f"{where}: readout {line} ({size}) is outside the header's matrix of {rows}×{columns}"
            )
        kspace[:, start : start + part.shape[1], column] += part
        times[start : start + part.shape[1], column] += 1
    if len(set(np.unique(times)) - {0}) > 1:
        raise Refusal(
            f"{where}: some lines are averaged more often than others; the same number of averages is allowed"
        )
    return kspace / max(int(times.max()), 1), times > 0


def samples_of(data: Any, line: int, where: str) -> np.ndarray:
    """[coils,samples] of one readout."""
    with decoding(where, "ISMRMRD", private=True):
        entry = data[line]
        coils, length = (
            int(entry["head"]["active_channels"]),
            int(entry["head"]["number_of_samples"]),
        )
        numbers = np.asarray(entry["data"], np.float32)
    if coils < 1 or len(numbers) != 2 * coils * length:
        raise Refusal(
            f"{where}: readout {line} holds {len(numbers)} numbers; {coils} coils × {length} samples × 2 are due"
        )
    return numbers.view(np.complex64).reshape(coils, length)


def along(
    data: Any, found: Index, lines: Sequence[int], where: str
) -> tuple[np.ndarray, np.ndarray]:
    """k-space [coils,shots,samples] of some readouts and where they lie, [2,shots,samples] in cycles per field of view.

    ISMRMRD leaves the unit of trajectories open: one that ends at half a cycle is in cycles per pixel of the encoded matrix, as
    Gadgetron and BART's converter write them; any other is taken for cycles per field of view.
    """
    shots, paths = [], []
    for line in lines:
        head, samples = found.heads[line], samples_of(data, line, where)
        part = slice(int(head["discard_pre"]), samples.shape[1] - int(head["discard_post"]))
        shots.append(samples[:, part])
        paths.append(_path(data, line, samples.shape[1], where)[:, part])
    if len({shot.shape for shot in shots}) > 1:
        raise Refusal(
            f"{where}: readouts of different coils or numbers of samples along its trajectory; alike ones are allowed"
        )
    k = planar(np.stack(paths, 1), where)
    if np.abs(k).max() <= PIXELS:
        k *= np.array(found.header.encoded[:2], float)[:, None, None]
    return np.stack(shots, 1), k


def _path(data: Any, line: int, samples: int, where: str) -> np.ndarray:
    """[2 or 3,samples] of one readout."""
    with decoding(where, "ISMRMRD", private=True):
        entry = data[line]
        dimensions = int(entry["head"]["trajectory_dimensions"])
        numbers = np.asarray(entry["traj"], np.float64)
    if dimensions not in (2, 3) or len(numbers) != dimensions * samples:
        raise Refusal(
            f"{where}: readout {line} has {len(numbers)} numbers of its trajectory; 2 or 3 for each of {samples} samples are due"
        )
    return numbers.reshape(samples, dimensions).T
