"""Arrays of an HDF5 file, MATLAB 7.3's included, read one piece at a time; nothing outside the file is ever followed.

HDF5 lets a file point elsewhere in three ways: external links, external storage (raw bytes of any other file) and virtual data
sets. A stranger's file could so put the content of yours into a result; all three are refused.
"""

from math import prod
from pathlib import Path
from typing import Any

from data.files import Refusal
from data.formats import bounds

PACKS = ("gzip", None)  # filters whose best is known; others have bounds of their own


def module(path: str | Path) -> Any:
    """h5py, which is an extra."""
    try:
        import h5py
    except ImportError:
        raise Refusal(
            f"{path}: HDF5 and MATLAB 7.3 files need h5py: pip install 'palimpsest[formats]'"
        ) from None
    return h5py


def arrays(path: Path, file: Any) -> dict[str, Any]:
    """The data sets at the top of an open file that have two dimensions or more and are no text. Soft links are passed over."""
    h5py = module(path)
    found = {}
    for name in file:
        link = file.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise Refusal(
                f"{path}: has a link to another file; data sets of the file itself are allowed"
            )
        if isinstance(link, h5py.HardLink) and isinstance(value := file[name], h5py.Dataset):
            text = bytes(value.attrs.get("MATLAB_class", b"")) == b"char"
            if value.ndim >= 2 and not text:
                found[name] = value
    return found


def check(path: Path, dataset: Any) -> float | None:
    """Refuse what is no data set, and one whose numbers lie elsewhere; the bytes that it can hold at most, None if its filters
    do not say."""
    if not isinstance(dataset, module(path).Dataset):
        raise Refusal(f"{path}: its {dataset.name} is a group; a data set is allowed")
    if dataset.external:
        raise Refusal(
            f"{path}: its numbers are in another file (external storage); numbers in the file itself are allowed"
        )
    if dataset.is_virtual:
        raise Refusal(
            f"{path}: is made of other files (a virtual data set); numbers in the file itself are allowed"
        )
    stored = dataset.id.get_storage_size()
    if dataset.chunks is None:
        return stored
    if (chunk := prod(dataset.chunks) * dataset.dtype.itemsize) > bounds.image_bytes():
        raise Refusal(
            f"{path}: is unpacked in pieces of {chunk} bytes; --max-image-bytes allows more"
        )
    plugins = dataset.id.get_create_plist().get_nfilters() > 0 and dataset.compression not in PACKS
    return None if plugins else stored * bounds.DEFLATE
