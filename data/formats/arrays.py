"""Bare arrays: NPY, NPZ, HDF5 (fastMRI k-space) and MATLAB files, real or complex.

What the axes mean is not stored, so it is decided here, once:
* two: height, width;
* NPY, NPZ, HDF5, three: channels first if the first size is 1 or 3 (complex NPY, NPZ: coils, whatever their number), else
  channels last if the last is 1 or 3, else a stack of slices;
* four: slices, channels, height, width (channels last if the last size is 1 or 3 and the second is not);
* MATLAB, three: colours if the last size is 3, else a stack of slices along the last.
"""

import io
import zipfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import scipy.io

from data.files import Refusal
from data.formats.image import Image, Meta, check_index, decoding, digest, from_stored, to_stored
from data.formats.volume import check_complete

PREFERRED = ("kspace", "image", "images", "arr_0", "data")
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"


def count(path: Path, format: str) -> int:
    """Images of a stack; 1 without a slice axis."""
    shape, _, layout, close = _open(path, format)
    close()
    return shape[layout.index("n")] if "n" in layout else 1


def read(path: Path, format: str, index: int | None = None) -> Image:
    """One image of the file; of an HDF5 stack only that slice is read."""
    shape, array, layout, close = _open(path, format)
    try:
        total = shape[layout.index("n")] if "n" in layout else 1
        index = check_index(index, total, path, "slices")
        where = tuple(index if letter == "n" else slice(None) for letter in layout)
        with decoding(path, format.upper()):
            stored = np.array(array[where])
    finally:
        close()
    rest = layout.replace("n", "")
    stored = np.moveaxis(stored, rest.index("c"), 0) if "c" in rest else stored[None]
    stored = _complex(stored)
    if stored.dtype.kind not in "biufc":
        raise Refusal(f"{path}: holds {stored.dtype}; real and complex numbers are allowed")
    stored = stored.astype(stored.dtype.newbyteorder("="))
    bits = 1 if stored.dtype.kind == "b" else 0
    series, key = digest("stack", str(path.absolute())), getattr(array, "key", "")
    meta = Meta(format, stored.dtype.name, bits, index=index, count=total, shape=shape, series=series, key=key, layout=layout)
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
        _save_npz(out, first.key or "image", array)
    elif first.format == "mat":
        scipy.io.savemat(out, {first.key or "image": array}, do_compression=True)
        return b"MATLAB 5.0 MAT-file".ljust(116) + out.getvalue()[116:]  # its text names the day: same input, same bytes
    else:
        with _h5py("hdf5").File(out, "w", track_order=False) as file:
            file.create_dataset(first.key or "image", data=array, compression="gzip", track_times=False)
    return out.getvalue()


def _laid_out(image: Image) -> np.ndarray:
    """[C, H, W] → the file's order of axes, without the slice axis."""
    stored, rest = to_stored(image), image.meta.layout.replace("n", "")
    if "c" not in rest and len(stored) > 1:
        rest = "chw"
    return np.moveaxis(stored, 0, rest.index("c")) if "c" in rest else stored[0]


class _Named:
    """An array and the name it has inside its file."""

    def __init__(self, array, key: str):
        self.array, self.key = array, key

    def __getitem__(self, where):
        return self.array[where]


def _open(path: Path, format: str):
    """(shape, array, layout, close): the one array of the file, not yet read where the library can wait."""
    with decoding(path, format.upper()):
        file, arrays = _arrays(path, format)
        key = _chosen(list(arrays))
        array = arrays[key]
        shape, dtype = tuple(int(n) for n in array.shape), array.dtype
    layout = _layout(shape, dtype, format)
    if layout is None or 0 in shape:
        file.close()
        raise Refusal(f"{path}: array of shape {shape}; an image, a stack of images, or slices × channels × H × W is allowed")
    return shape, _Named(array, key), layout, file.close


def _arrays(path: Path, format: str):
    """(file to close, {name: array}) of what has at least two dimensions."""
    if format == "npy":
        return io.BytesIO(), {"": np.load(path, mmap_mode="r", allow_pickle=False)}
    if format in ("npz", "mat"):
        status = path.stat()
        return io.BytesIO(), _unpacked(path, format, status.st_mtime_ns, status.st_size)
    h5py = _h5py(path)
    file = h5py.File(path, "r")
    return file, {k: v for k, v in file.items() if isinstance(v, h5py.Dataset) and v.ndim >= 2}


@lru_cache(maxsize=1)
def _unpacked(path: Path, format: str, changed: int, size: int) -> dict[str, np.ndarray]:
    """The last NPZ or MAT file stays in memory: reading its slices one by one unpacks it once."""
    if format == "npz":
        with np.load(path, allow_pickle=False) as file:
            found = dict(file)
    elif _is_hdf5(path):  # MATLAB 7.3 is HDF5 with the axes reversed
        h5py = _h5py(path)
        with h5py.File(path, "r") as file:
            found = {key: np.asarray(value).T for key, value in file.items() if isinstance(value, h5py.Dataset)}
    else:
        found = scipy.io.loadmat(path)
    return {key: value for key, value in found.items() if getattr(value, "ndim", 0) >= 2}


def _chosen(keys: list[str]) -> str:
    preferred = [key for key in PREFERRED if key in keys]
    if len(keys) == 1 or preferred:
        return preferred[0] if preferred else keys[0]
    raise Refusal(
        f"arrays {', '.join(sorted(keys)[:8]) or 'none'}; a single one, or one called {', '.join(PREFERRED)}, is allowed"
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


def _complex(stored: np.ndarray) -> np.ndarray:
    """MATLAB 7.3 and some HDF5 writers keep complex numbers as records of two floats."""
    names = stored.dtype.names
    if names and set(names) in ({"real", "imag"}, {"r", "i"}):
        real, imaginary = sorted(names, reverse=True)
        return stored[real] + 1j * stored[imaginary]
    return stored


def _save_npz(out: io.BytesIO, key: str, array: np.ndarray) -> None:
    """As np.savez_compressed, but with a fixed date inside: same input, same bytes."""
    inner = io.BytesIO()
    np.save(inner, array, allow_pickle=False)
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(zipfile.ZipInfo(f"{key}.npy"), inner.getvalue(), zipfile.ZIP_DEFLATED)


def _is_hdf5(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(520)
    return HDF5_MAGIC in (start[:8], start[512:520])  # MATLAB puts 512 bytes of its own first


def _h5py(path: str | Path):
    try:
        import h5py
    except ImportError:
        raise Refusal(f"{path}: HDF5 and MATLAB 7.3 files need h5py: pip install 'palimpsest[formats]'") from None
    return h5py
