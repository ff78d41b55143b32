"""ISMRMRD (Inati et al. 2017) in HDF5: a group with `xml` and `data`, one entry of `data` for each readout.

Noise scans, calibration lines, partial Fourier, partial echoes and averages are told apart by flags and counters; images are
counted slice first, then repetition. 2-D scans are read, Cartesian ones and along trajectories; what is neither imaging nor noise
(navigators, phase correction, dummies) is passed over.
"""

from collections import defaultdict
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.files import Refusal
from data.formats import bounds, hdf5
from data.formats.image import Affine, decoding, digest
from data.formats.kspace import header as headers
from data.formats.kspace.mrd_readouts import Index, along, filled, samples_of
from data.formats.kspace.raw import Raw, place

NOISE, CALIBRATION, BOTH = (1 << bit for bit in (18, 19, 20))
OTHER = sum(
    1 << bit for bit in (22, 23, 25, 26, 27, 28, 29, 30)
)  # navigation, phase correction, feedback, dummies, …
FRAMES = (
    "contrast",
    "phase",
    "set",
    "repetition",
)  # counters of which each value is an image of its own


def is_one(file: Any) -> bool:
    return _group(file) is not None


def count(path: Path) -> int:
    return len(_index(path).images)


def read(path: Path, index: int) -> Raw:
    """One image, of whose readouts alone samples are read."""
    found = _index(path)
    header, lines = found.header, found.images[index]
    first = found.heads[lines[0]]
    where = f"{path}, slice {index}"
    matrix, k, calibration = header.encoded[:2], None, None
    with _opened(path) as data:
        if found.cartesian:
            kspace, mask = filled(data, found, lines, matrix, where)
            extra = found.calibrations.get(int(first["idx"]["slice"]), ())
            calibration = filled(data, found, extra, matrix, where)[0] if extra else None
        else:
            kspace, k = along(data, found, lines, where)
            mask = np.ones(k.shape[1:], bool)
        noise = _noise(data, found, first, where)
    kept = header.kept(*matrix)
    spacing = header.spacing(*matrix)
    repeats = len(found.images) // found.slices
    return Raw(
        torch.from_numpy(kspace),
        torch.from_numpy(mask),
        kept,
        spacing,
        _affine(found, kept, spacing, where),
        None if noise is None else torch.from_numpy(noise),
        None if calibration is None else torch.from_numpy(calibration),
        None if k is None else torch.from_numpy(k),
        None if k is None else matrix,
        index=index,
        count=len(found.images),
        shape=(*kept, found.slices, *([repeats] if repeats > 1 else [])),
        series=digest("kspace", str(path.absolute())),
    )


def _noise(data: Any, found: Index, image: np.void, where: str) -> np.ndarray | None:
    """Samples of the noise scan [coils,n], as they would be at the image's bandwidth and number of averages."""
    if not found.noise:
        return None
    times, ratio = found.heads[list(found.noise)]["sample_time_us"], found.header.noise_bandwidth
    longer = (
        float(times[0]) / float(image["sample_time_us"])
        if times[0] > 0 and image["sample_time_us"] > 0
        else 1.0
    )
    samples = np.concatenate([samples_of(data, line, where) for line in found.noise], 1)
    return (samples * np.sqrt(longer / ratio / _averages(found, image))).astype(np.complex64)


def _averages(found: Index, image: np.void) -> int:
    """How often the lines of an image were measured; along a trajectory every readout is one of its own."""
    if not found.cartesian:
        return 1
    lines = next(
        lines
        for lines in found.images
        if found.heads[lines[0]]["scan_counter"] == image["scan_counter"]
    )
    steps = found.heads[list(lines)]["idx"]["kspace_encode_step_1"]
    return max(1, len(steps) // len(np.unique(steps)))


def _affine(
    found: Index, kept: tuple[int, int], spacing: tuple[float, float] | None, where: str
) -> Affine | None:
    if spacing is None:
        return None
    firsts = [found.heads[lines[0]] for lines in found.images[: found.slices]]
    head = firsts[0]
    step = np.asarray(head["slice_dir"], float) * (found.header.pictured_mm[2] or 1.0)
    if len(firsts) > 1:
        apart = (
            np.asarray(firsts[-1]["position"], float) - np.asarray(head["position"], float)
        ) / (len(firsts) - 1)
        step = apart if np.linalg.norm(apart) > 0 else step
    return place(
        where, kept, spacing, head["position"], head["read_dir"], head["phase_dir"], list(step)
    )


def _index(path: Path) -> Index:
    status = path.stat()
    return _indexed(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4)
def _indexed(path: Path, changed: int, size: int) -> Index:
    """All heads are read, no samples. changed, size: a new file is not the old one."""
    with _opened(path) as data:
        with decoding(path, "ISMRMRD", private=True):
            heads = data.fields("head")[:]
            text = data.parent["xml"][0]
    header = headers.parse(text, str(path))
    partitions = max(
        header.encoded[2], 1 + int(heads["idx"]["kspace_encode_step_2"].max(initial=0))
    )
    if partitions > 1:
        raise Refusal(
            f"{path}: a 3-D scan of {partitions} partitions; 2-D scans of slices are allowed"
        )
    images: dict[tuple, list[int]] = defaultdict(list)
    calibrations: dict[int, list[int]] = defaultdict(list)
    noise = []
    for line, head in enumerate(heads):
        flags = int(head["flags"])
        if flags & NOISE:
            noise.append(line)
        elif flags & CALIBRATION and not flags & BOTH:
            calibrations[int(head["idx"]["slice"])].append(line)
        elif not flags & OTHER:
            images[tuple(int(head["idx"][name]) for name in (*FRAMES, "slice"))].append(line)
    if not images:
        raise Refusal(
            f"{path}: none of its {len(heads)} readouts is of an image; a scan with k-space is allowed"
        )
    slices = len({key[-1] for key in images})
    if len(images) % slices or len({key[:-1] for key in images}) * slices != len(images):
        raise Refusal(
            f"{path}: {len(images)} images of {slices} slices: a slice is missing; whole repetitions are allowed"
        )
    return Index(
        header, [images[key] for key in sorted(images)], slices, calibrations, noise, heads
    )


def _group(file: Any) -> Any:
    """The first group that has both `xml` and `data`; ISMRMRD's own default is called dataset."""
    return next(
        (
            file[name]
            for name in file
            if {"xml", "data"} <= set(getattr(file[name], "keys", tuple)())
        ),
        None,
    )


@contextmanager
def _opened(path: Path):
    """The data set of readouts, after its claims were looked at."""
    with decoding(path, "HDF5", private=True):
        file = hdf5.module(path).File(path, "r")
    with file:
        data = _group(file)["data"]
        hdf5.check(path, data)
        if not {"head", "data"} <= set(data.dtype.names or ()) or data.ndim != 1:
            raise Refusal(
                f"{path}: its data are no readouts (head, traj, data); an ISMRMRD file is allowed"
            )
        bounds.count(path, len(data))
        yield data
