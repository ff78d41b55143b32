"""Where samples of non-Cartesian k-space lie: [2,shots,samples] float64, (k_row, k_column) in cycles per field of view.

BART's arrays are [3, samples, shots], component 0 along the image's first dimension; NPY and NPZ (array `trajectory`, or the only
one) [shots,samples,2 or 3] or [2 or 3,shots,samples]. A third component must be 0: k-space of slices is two-dimensional.
"""

from pathlib import Path

import numpy as np

from data.files import Refusal
from data.formats.kspace import bart_array, numpy_array

PIXELS = 0.5005  # cycles per pixel that a trajectory ends at, where its unit is that, and rounding
FLAT = 1e-6  # of the longest, that a third component may be


def load(path: Path) -> np.ndarray:
    """Of a file. Raises Refusal for what is no trajectory of a plane."""
    if path.suffix.lower() == ".cfl":
        data = np.asarray(bart_array.load(path))
        if data.shape[0] not in (2, 3) or any(n > 1 for n in data.shape[3:]):
            raise Refusal(f"{path}: {data.shape[:4]}; [3, samples, shots] is allowed")
        return planar(data.reshape(data.shape[:3]).transpose(0, 2, 1).real, str(path))
    return arranged(numpy_array.load(path, "trajectory"), str(path))


def arranged(data: np.ndarray, where: str) -> np.ndarray:
    """Of an array whose first or last axis holds the components."""
    if np.iscomplexobj(data) or data.dtype.kind not in "fiu" or data.ndim not in (2, 3):
        raise Refusal(
            f"{where}: a trajectory of {data.dtype} {data.shape}; real [shots,samples,2] is allowed"
        )
    if data.shape[-1] in (2, 3):
        return planar(np.moveaxis(data, -1, 0), where)
    if data.shape[0] in (2, 3):
        return planar(data, where)
    raise Refusal(
        f"{where}: a trajectory of {data.shape}; [shots,samples,2] or [2,shots,samples] is allowed"
    )


def planar(k: np.ndarray, where: str) -> np.ndarray:
    """[2,shots,samples] of [2 or 3,(shots,)samples], whose third component is 0."""
    k = np.asarray(k, np.float64)
    k = k[:, None] if k.ndim == 2 else k
    if not np.isfinite(k).all():
        raise Refusal(f"{where}: its trajectory holds values that are not finite")
    if len(k) == 3 and np.abs(k[2]).max() > FLAT * max(float(np.abs(k[:2]).max()), 1e-30):
        raise Refusal(f"{where}: a trajectory in three dimensions; one of a plane is allowed")
    return np.ascontiguousarray(k[:2])


def matrix(k: np.ndarray) -> tuple[int, int]:
    """Rows and columns of the image that a trajectory [2,shots,samples] resolves: even, twice as many as its farthest cycles."""
    rows, columns = (max(2, 2 * int(np.ceil(np.abs(axis).max() - 1e-3))) for axis in k)
    return rows, columns
