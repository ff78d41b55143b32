"""NIfTI-1 and NIfTI-2 single files, .nii and .nii.gz: integers, floats, complex and RGB, 2-D to 4-D."""

import gzip
import io
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np

from data.files import Refusal
from data.formats import bounds
from data.formats.image import Affine, Image, Meta, decoding, digest
from data.formats.volume import Volume, as_affine, assemble, four_dimensional

# nibabel writes to stderr what it mends in a header; what a user should know of it is in `Meta.notes`.
logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)

HEADERS = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}
FREE_TEXT = ("data_type", "db_name", "descrip", "aux_file", "intent_name", "unused_str", "regular")


def open_volume(path: Path) -> Volume:
    """The whole volume; a plain .nii is mapped, a .nii.gz unpacked (to its end, so that a cut is noticed)."""
    zipped = path.name.lower().endswith(".gz")
    with decoding(path, "NIfTI"), gzip.open(path) if zipped else path.open("rb") as file:
        start = file.read(544)
        header = _header(start)
        offset = int(header["vox_offset"])  # a float, so it may be infinite
        dtype, shape = header.get_data_dtype(), tuple(int(n) for n in header.get_data_shape())
    if not 2 <= len(shape) <= 4 or min(shape) < 1:
        raise Refusal(f"{path}: has dimensions {shape}; two to four, each at least 1, are allowed")
    if dtype.kind not in "iufc" and dtype.names != ("R", "G", "B"):
        raise Refusal(
            f"{path}: holds {dtype.names or dtype}; integers, floats, complex and RGB are allowed"
        )
    array = four_dimensional(_array(path, zipped, offset, dtype, shape))
    if dtype.names:
        array = np.stack([array[name] for name in dtype.names], -1)
    sizes = _header(start, mend=False)["pixdim"][1 : 1 + min(3, len(shape))]
    notes = () if sizes.all() else ("a voxel size of 0 in the header is read as 1",)
    return Volume(array, replace(_meta(path, header, shape), notes=notes))


def encode(images: Sequence[Image], zipped: bool, keep_patient: bool) -> bytes:
    """One slice, or all slices of a volume in any order → a .nii file. Same input, same bytes.

    keep_patient: the free-text fields of the header stay, which may name the patient. Extensions are never carried over.
    """
    volume = assemble(images)
    header = _header(volume.meta.header) if volume.meta.header else _new_header(volume.meta)
    before = as_affine(header.get_best_affine())
    for field in () if keep_patient else FREE_TEXT:
        if field in header.keys():
            header[field] = b""
    header.set_data_dtype(
        "RGB" if volume.meta.photometric == "rgb" else volume.meta.dtype
    )  # colours may have become gray
    header.set_data_shape(volume.meta.shape)
    header["vox_offset"] = header.single_vox_offset
    header["magic"] = header.single_magic
    if not np.isfinite(header["scl_inter"]):
        header["scl_inter"] = (
            0  # as it was read: other readers refuse the file, or drop the slope with it
        )
    _place(header, volume.meta, before)
    dtype, array = header.get_data_dtype(), volume.array
    if dtype.names:
        array = np.ascontiguousarray(array).view(dtype)[..., 0]
    out = io.BytesIO()
    header.write_to(out)
    out.write(
        bytes(int(header["vox_offset"]) - out.tell())
    )  # the four bytes that say: no extensions
    out.write(array.astype(dtype).tobytes(order="F"))
    return gzip.compress(out.getvalue(), 6, mtime=0) if zipped else out.getvalue()


def _header(start: bytes, mend: bool = True):
    """Header of either version and either byte order. Raises ValueError for anything else. mend: as nibabel does."""
    sizes = (
        {int(np.frombuffer(start[:4], order)[0]): order for order in ("<i4", ">i4")}
        if len(start) >= 4
        else {}
    )
    found = [(kind, order) for size, kind in HEADERS.items() if (order := sizes.get(size))]
    if not found:
        raise ValueError("no NIfTI header at its start")
    kind, order = found[0]
    header = kind(start[: kind.template_dtype.itemsize], endianness=order[0], check=mend)
    if header["magic"].item() != header.single_magic:
        raise ValueError(
            "header and data are in two files (.hdr, .img); a single .nii or .nii.gz is allowed"
        )
    return header


def _array(
    path: Path, zipped: bool, offset: int, dtype: np.dtype, shape: tuple[int, ...]
) -> np.ndarray:
    held = path.stat().st_size * (bounds.DEFLATE if zipped else 1) - offset
    size = bounds.check_volume(path, shape, dtype.itemsize, held)
    if not 0 <= offset <= held + offset:
        raise Refusal(
            f"{path}: its data begin at byte {offset}; a place inside the file is allowed"
        )
    if not zipped:
        return np.memmap(path, dtype, "r", offset, shape, order="F")
    with gzip.open(path) as file:
        data = bounds.unpack(file, size, path, offset)
    return np.frombuffer(data, dtype, size // dtype.itemsize, offset).reshape(shape, order="F")


def _meta(path: Path, header, shape: tuple[int, ...]) -> Meta:
    slope, intercept = (float(header[key]) for key in ("scl_slope", "scl_inter"))
    if slope == 0 or not np.isfinite(slope):  # the standard: then there is no scaling
        slope, intercept = 1.0, 0.0
    if not np.isfinite(intercept):  # nobody can mean it; the slope stands
        intercept = 0.0
    dtype = header.get_data_dtype()
    if dtype.names:
        slope, intercept = 1.0, 0.0
    if dtype.kind == "c" and (slope, intercept) != (1, 0):
        raise Refusal(
            f"{path}: complex numbers with a scale {slope}, {intercept}; scl_slope 1 and scl_inter 0 are allowed"
        )
    low, high = float(header["cal_min"]), float(header["cal_max"])
    window = (low, high) if np.isfinite([low, high]).all() and high > low else None
    with decoding(path, "NIfTI"):
        affine = as_affine(header.get_best_affine())
    return Meta(
        "nifti",
        "uint8" if dtype.names else dtype.newbyteorder("=").name,
        slope=slope,
        intercept=intercept,
        window=window,
        shape=shape,
        affine=affine,
        photometric="rgb" if dtype.names else "gray",
        series=digest("volume", str(path.absolute())),
        header=bytes(header.binaryblock),
    )


def _new_header(meta: Meta) -> nibabel.Nifti1Header:
    """For images that come from elsewhere."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype("RGB" if meta.photometric == "rgb" else meta.dtype)
    header.set_data_shape(meta.shape)
    header["scl_slope"], header["scl_inter"] = meta.slope, meta.intercept
    header.set_xyzt_units("mm")
    if meta.affine is not None:
        header.set_sform(np.array(meta.affine), "scanner")
        header.set_qform(np.array(meta.affine), "scanner")
    return header


def _place(header, meta: Meta, before: Affine | None) -> None:
    """Carry over what happened to the affine (resizing, a part taken out) to both transforms of the header.

    before: its affine when it was read. A header without transforms is centred, so that a part of it would move: it gets one.
    """
    if before is None or meta.affine is None:
        return
    qform, qcode = header.get_qform(coded=True)
    sform, scode = header.get_sform(coded=True)
    if before != meta.affine:
        change = np.linalg.inv(np.array(before)) @ np.array(meta.affine)
        zooms = np.array(header.get_zooms(), dtype=float)
        n = min(3, len(zooms))
        header.set_zooms(
            zooms * np.r_[np.linalg.norm(change[:3, :3], axis=0)[:n], np.ones(len(zooms) - n)]
        )
        if qcode:
            header.set_qform(qform @ change, int(qcode))
        if scode:
            header.set_sform(sform @ change, int(scode))
    if not (qcode or scode) and not np.allclose(header.get_best_affine(), meta.affine, atol=1e-4):
        header.set_sform(np.array(meta.affine), "aligned")
