"""Medical and ordinary image files in and out, without loss: `read`, `write`, `count`, `reassemble`, `resized`, `upright`.

Every file becomes `Image(pixels, meta)`; what is written back has the format, depth, units and geometry that `meta` says. Every
failure is a Refusal of one line: file, reason, what is allowed. Nothing is ever half-written.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from data.files import Refusal, Unwritable, commit, commit_folder, file_digest
from data.formats import archive, arrays, bounds, dicom, dicom_series, nifti, nrrd, raster, volume
from data.formats.bounds import allow
from data.formats.dicom_identity import Origin
from data.formats.image import RASTER, Image, Meta, depth, unpadded, with_channels
from data.formats.recognised import SUFFIXES, format_of, kind, own_suffix, suffix
from data.formats.stack import spacing, spread, stacked
from data.formats.volume import as_stored, resized, upright

__all__ = [
    "Image", "Meta", "SUFFIXES", "allow", "as_stored", "checksum", "commit", "count", "depth", "kind", "own_suffix", "read",
    "reassemble", "resized", "series", "spacing", "spread", "stacked", "suffix", "unpadded", "upright", "with_channels", "write",
]  # fmt: skip

VOLUME, ARRAY = ("nifti", "nrrd"), ("npy", "npz", "hdf5", "mat")


def read(path: str | Path, index: int | None = None, axis: int = 2) -> Image:
    """One image of a file, pixels float32 [C, H, W] in stored units.

    index: which slice, frame, page or picture; needed where `count` is over 1. axis: slice axis of NIfTI and NRRD volumes.
    """
    path = Path(path)
    with _one_line(path):
        format = format_of(path)
        if format in RASTER:
            return raster.decode(path.read_bytes(), path, format, index)
        if format in VOLUME:
            return volume.slice_of(_volume(path, format), index, axis, path)
        if format in ARRAY:
            return arrays.read(path, format, index)
        return archive.read(path, index) if format == "zip" else dicom.read(path, index)


def count(path: str | Path, axis: int = 2) -> int:
    """How many images `read` finds in the file: slices (along `axis`), frames, pages or pictures."""
    path = Path(path)
    with _one_line(path):
        return bounds.count(path, _count(path, format_of(path), axis))


def series(path: str | Path) -> str:
    """What the DICOM slices of one volume share, told without reading pixels; of a file that does not say, its own name."""
    return dicom_series.volume(Path(path))


def write(
    image: Image,
    path: str | Path,
    *,
    image_id: str = "",
    config: str = "",
    derivation: str = "",
    keep_patient: bool = False,
    kind: str = "",
) -> None:
    """Write one image in the format, depth, units and geometry of its meta. The file appears whole or not at all.

    Only DICOM uses the rest: the new UIDs are digests of image_id (default: of the source image), config and kind; derivation
    and kind say how the image was made and what it is; keep_patient leaves the patient's data in.
    """
    _write([image], Path(path), [image_id], Origin(config, derivation, keep_patient, kind))


def reassemble(
    images: Sequence[Image],
    path: str | Path,
    *,
    image_ids: Sequence[str] = (),
    config: str = "",
    derivation: str = "",
    keep_patient: bool = False,
    kind: str = "",
) -> None:
    """Put the slices of one volume, stack, multi-frame or ZIP file back into one file, or of one DICOM series into a new folder.

    The images come in any order; one missing or given twice is an error and nothing is written. A DICOM series is sorted along
    its normal into 0001.dcm, 0002.dcm …; the other keywords are those of `write`.
    """
    if not images:
        raise Refusal(f"{path}: no images to put together; at least one is needed")
    ids, origin = (
        list(image_ids) or [""] * len(images),
        Origin(config, derivation, keep_patient, kind),
    )
    if len(ids) != len(images):
        raise Refusal(f"{path}: {len(images)} images but {len(ids)} image ids")
    if images[0].meta.format == "dicom" and images[0].meta.count == 1:
        _write_series(images, Path(path), ids, origin)
    else:
        _write(list(images), Path(path), ids, origin)


def _count(path: Path, format: str, axis: int) -> int:
    if format in RASTER:
        return raster.count(path.read_bytes(), path, format)
    if format in VOLUME:
        return volume.count(_volume(path, format), axis)
    if format in ARRAY:
        return arrays.count(path, format)
    return archive.count(path) if format == "zip" else dicom.count(path)


def _write(images: list[Image], path: Path, ids: list[str], origin: Origin) -> None:
    format = images[0].meta.format
    named = kind(path)
    if named != format and not (named == "zip" and format in RASTER):
        raise Refusal(
            f"{path}: a {format} image cannot be written under this name; {suffix(images[0].meta)} is allowed"
        )
    try:
        if named == "zip":
            data = archive.encode(images)
        elif format in RASTER:
            data = raster.encode(_ordered(images))
        elif format == "nifti":
            data = nifti.encode(images, path.name.lower().endswith(".gz"), origin.keep_patient)
        elif format == "nrrd":
            data = nrrd.encode(images, origin.keep_patient)
        elif format in ARRAY:
            data = arrays.encode(images)
        else:
            data = _dicom_file(images, ids, origin)
    except Refusal as error:
        raise Refusal(_flat(f"{path}: {error}")) from error
    commit(path, data)


def _ordered(images: list[Image]) -> list[Image]:
    """The pages of a file, every one once."""
    if len(images) > 1:
        volume.check_complete([image.meta for image in images])
    return sorted(images, key=lambda image: image.meta.index)


def _dicom_file(images: list[Image], ids: list[str], origin: Origin) -> bytes:
    if len(images) > 1:
        volume.check_complete(
            [replace(image.meta, affine=None) for image in images]
        )  # each frame may have its own place
        order = sorted(range(len(images)), key=lambda i: images[i].meta.index)
        images, ids = [images[i] for i in order], [ids[i] for i in order]
    identity = "\x1f".join(given or image.meta.source for given, image in zip(ids, images))
    return dicom.encode(images, identity, origin)


def _write_series(images: Sequence[Image], folder: Path, ids: list[str], origin: Origin) -> None:
    metas = [image.meta for image in images]
    if len({m.series for m in metas}) > 1 or any(m.format != "dicom" for m in metas):
        raise Refusal(f"{folder}: images of several DICOM series; slices of one series are allowed")
    if len({m.source for m in metas}) < len(metas):
        raise Refusal(f"{folder}: a slice of the series is given twice; each once is allowed")
    files = {}
    for number, i in enumerate(dicom.in_order(images), 1):
        files[f"{number:04d}.dcm"] = dicom.encode(
            [images[i]], ids[i] or metas[i].source, origin, number
        )
    commit_folder(folder, files)


def _volume(path: Path, format: str) -> volume.Volume:
    status = path.stat()
    return _open_volume(path, format, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1)
def _open_volume(path: Path, format: str, changed: int, size: int) -> volume.Volume:
    """The last volume stays open: reading its slices one by one unpacks it once. changed, size: a new file is not the old one."""
    return nifti.open_volume(path) if format == "nifti" else nrrd.open_volume(path)


def checksum(path: str | Path) -> str:
    """SHA-256 of a file, found once for all its images; "" if it cannot be read."""
    try:
        status = Path(path).stat()
        return _checksum(path, status.st_mtime_ns, status.st_size)
    except OSError:
        return ""


@lru_cache(maxsize=64)
def _checksum(path: str | Path, changed: int, size: int) -> str:
    return file_digest(path)


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """The promise of this package: whatever is wrong with a file is one line."""
    try:
        yield
    except OSError as error:
        raise Refusal(
            _flat(
                f"{path}: cannot be opened ({error.strerror or error}); a readable file is allowed"
            )
        ) from error
    except Unwritable:
        raise
    except Refusal as error:
        raise Refusal(_flat(str(error))) from error.__cause__


def _flat(text: str) -> str:
    return text.replace("\r", " ").replace("\n", " ")
