"""Bare arrays: NPY, NPZ, HDF5 (fastMRI k-space) and MATLAB files, real or complex.

What the axes mean is not stored, so it is decided here, once:
* two: height, width;
* NPY, NPZ, HDF5, three: channels first if the first size is 1 or 3 (complex NPY, NPZ: coils, whatever their number), else
  channels last if the last is 1 or 3, else a stack of slices;
* four: slices, channels, height, width (channels last if the last size is 1 or 3 and the second is not);
* MATLAB, three: colours if the last size is 3, else a stack of slices along the last.
"""

import io
from collections.abc import Callable, Sequence
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.io

from data.files import Refusal
from data.formats import bounds, hdf5, mat, npz
from data.formats.image import Image, Meta, check_index, decoding, digest, from_stored, to_stored
from data.formats.volume import check_complete

NAMES = (
    "kspace",
    "image",
    "images",
    "arr_0",
    "data",
)  # of arrays; any other may be a person's, and is not carried over
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"


class Stored(NamedTuple):
    """The one array of a file, not read yet where that can wait."""

    shape: tuple[int, ...]
    dtype: np.dtype
    name: str
    get: Callable[[tuple], np.ndarray]
    held: float | None = None  # bytes that the file can hold of it
    close: Callable[[], None] = lambda: None


def count(path: Path, format: str) -> int:
    """Images of a stack; 1 without a slice axis."""
    stored, layout = _open(path, format)
    stored.close()
    return stored.shape[layout.index("n")] if "n" in layout else 1


def read(path: Path, format: str, index: int | None = None) -> Image:
    """One image of the file; of an HDF5 stack only that slice is read."""
    array, layout = _open(path, format)
    try:
        total = array.shape[layout.index("n")] if "n" in layout else 1
        index = check_index(index, total, path, "slices")
        where = tuple(index if letter == "n" else slice(None) for letter in layout)
        with decoding(path, format.upper(), private=True):
            stored = np.array(array.get(where))
    finally:
        array.close()
    rest = layout.replace("n", "")
    stored = np.moveaxis(stored, rest.index("c"), 0) if "c" in rest else stored[None]
    stored = _complex(stored)
    stored = stored.astype(stored.dtype.newbyteorder("="))
    bits = 1 if stored.dtype.kind == "b" else 0
    meta = Meta(
        format,
        stored.dtype.name,
        bits,
        index=index,
        count=total,
        shape=array.shape,
        series=digest("stack", str(path.absolute())),
        key=array.name if array.name in NAMES else "",
        layout=layout,
    )
    return from_stored(stored.astype(np.uint8) if bits else stored, meta, path)


def encode(images: Sequence[Image]) -> bytes:
    """One image, or all images of a stack in any order → the bytes of the file."""
    first = images[0].meta
    if len(images) > 1:
        check_complete([image.meta for image in images])
    arrays = [_laid_out(image) for image in sorted(images, key=lambda image: image.meta.index)]
    if len({a.shape for a in arrays}) > 1:
        raise Refusal("slices of one stack have different sizes; one size is allowed")
    array = np.stack(arrays, first.layout.index("n")) if len(arrays) > 1 else arrays[0]
    out = io.BytesIO()
    if first.format == "npy":
        np.save(out, array, allow_pickle=False)
    elif first.format == "npz":
        npz.save(out, first.key or "image", array)
    elif first.format == "mat":
        scipy.io.savemat(out, {first.key or "image": array}, do_compression=True)
        return (
            b"MATLAB 5.0 MAT-file".ljust(116) + out.getvalue()[116:]
        )  # its text names the day: same input, same bytes
    else:
        with hdf5.module("HDF5").File(out, "w", track_order=False) as file:
            file.create_dataset(
                first.key or "image", data=array, compression="gzip", track_times=False
            )
    return out.getvalue()


def _laid_out(image: Image) -> np.ndarray:
    """[C, H, W] → the file's order of axes, without the slice axis."""
    stored, rest = to_stored(image), image.meta.layout.replace("n", "")
    if "c" not in rest and len(stored) > 1:
        rest = "chw"
    return np.moveaxis(stored, 0, rest.index("c")) if "c" in rest else stored[0]


def _open(path: Path, format: str) -> tuple[Stored, str]:
    """The array and its layout, after its claims were looked at."""
    stored = _STORED[format](path)
    try:
        shape, dtype = stored.shape, stored.dtype
        if dtype.kind not in "biufc" and not _is_complex(dtype):
            raise Refusal(
                f"{path}: holds {dtype.kind!r} data that are no numbers; real and complex numbers are allowed"
            )
        layout = _layout(shape, dtype, format)
        if layout is None or 0 in shape:
            raise Refusal(
                f"{path}: array of shape {shape}; an image, a stack of images, or slices × channels × H × W is allowed"
            )
        image = [n for n, letter in zip(shape, layout) if letter != "n"]
        bounds.check(path, image, prod(shape) // prod(image), dtype.itemsize, stored.held)
    except Refusal:
        stored.close()
        raise
    return stored, layout


def _npy(path: Path) -> Stored:
    with decoding(path, "NPY"):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    return Stored(array.shape, array.dtype, "", array.__getitem__)


def _npz(path: Path) -> Stored:
    found = npz.members(path)
    member = found[name := _chosen(path, list(found))]

    def get(where: tuple) -> np.ndarray:
        return npz.load(path, member)[where]

    return Stored(member.shape, member.dtype, name, get, member.held)


def _hdf5(path: Path) -> Stored:
    h5py = hdf5.module(path)
    with decoding(path, "HDF5", private=True):
        file = h5py.File(path, "r")
    try:
        with decoding(path, "HDF5", private=True):
            arrays = hdf5.arrays(path, file)
        array = arrays[name := _chosen(path, list(arrays))]
        held = hdf5.check(path, array)
    except Refusal:
        file.close()
        raise
    return Stored(tuple(array.shape), array.dtype, name, array.__getitem__, held, file.close)


def _mat(path: Path) -> Stored:
    if _is_hdf5(path):  # MATLAB 7.3 is HDF5 with the axes reversed
        turned = _hdf5(path)
        return turned._replace(
            shape=turned.shape[::-1], get=lambda where: np.asarray(turned.get(where[::-1])).T
        )
    with decoding(path, "MAT", private=True):
        found = mat.variables(path)
    name = _chosen(path, list(found))
    status = path.stat()

    def get(where: tuple) -> np.ndarray:
        return _loaded(path, name, found[name], status.st_mtime_ns, status.st_size)[where]

    return Stored(
        found[name].shape,
        np.dtype(f"u{found[name].itemsize}"),
        name,
        get,
        mat.held(path, found[name]),
    )


@lru_cache(maxsize=1)
def _loaded(path: Path, name: str, variable: mat.Variable, changed: int, size: int) -> np.ndarray:
    """The last array stays in memory; changed, size: of the file, which a new file does not share."""
    return mat.load(path, name, variable)


_STORED: dict[str, Callable[[Path], Stored]] = {
    "npy": _npy,
    "npz": _npz,
    "hdf5": _hdf5,
    "mat": _mat,
}


def _chosen(path: Path, names: list[str]) -> str:
    preferred = [name for name in NAMES if name in names]
    if len(names) == 1 or preferred:
        return preferred[0] if preferred else names[0]
    raise Refusal(
        f"{path}: holds {len(names) or 'no'} arrays; one alone, or one called {', '.join(NAMES)}, is allowed"
    )


def _layout(shape: tuple[int, ...], dtype: np.dtype, format: str) -> str | None:
    few = (1, 3)
    complex_valued = dtype.kind == "c" or bool(dtype.names)
    if len(shape) == 2:
        return "hw"
    if len(shape) == 3 and format == "mat":
        return "hwc" if shape[2] == 3 else "hwn"
    if len(shape) == 3:
        if complex_valued:
            return "nhw" if format == "hdf5" else "chw"
        return "chw" if shape[0] in few else "hwc" if shape[2] in few else "nhw"
    if len(shape) == 4 and format != "mat":
        return "nhwc" if shape[3] in few and shape[1] not in few and not complex_valued else "nchw"
    return None


def _is_complex(dtype: np.dtype) -> bool:
    return bool(dtype.names) and set(dtype.names or ()) in ({"real", "imag"}, {"r", "i"})


def _complex(stored: np.ndarray) -> np.ndarray:
    """MATLAB 7.3 and some HDF5 writers keep complex numbers as records of two floats."""
    if not _is_complex(stored.dtype):
        return stored
    real, imaginary = sorted(stored.dtype.names or (), reverse=True)
    return stored[real] + 1j * stored[imaginary]


def _is_hdf5(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(520)
    return HDF5_MAGIC in (start[:8], start[512:520])  # MATLAB puts 512 bytes of its own first
