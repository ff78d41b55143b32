"""Which format a file has, by its name and by its content."""

import stat
from pathlib import Path

from data.files import Refusal
from data.formats.image import Meta

SUFFIXES = {
    ".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".bmp": "bmp", ".tif": "tiff", ".tiff": "tiff",
    ".dcm": "dicom", ".dicom": "dicom", ".ima": "dicom", ".nii": "nifti", ".nii.gz": "nifti", ".nrrd": "nrrd", ".npy": "npy",
    ".npz": "npz", ".zip": "zip", ".h5": "hdf5", ".hdf5": "hdf5", ".mat": "mat",
}  # fmt: skip
STARTS = {
    b"BM": "bmp", b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"II*\0": "tiff", b"MM\0*": "tiff", b"NRRD": "nrrd",
    b"\x93NUMPY": "npy", b"PK\x03\x04": "zip", b"\x89HDF\r\n\x1a\n": "hdf5", b"\x1f\x8b": "gzip", b"MATLAB": "mat",
}  # fmt: skip
# Formats that dress in another's clothes.
MAY_START_AS = {"npz": ("zip",), "mat": ("hdf5", "mat"), "nifti": ("gzip",)}


def kind(path: str | Path) -> str:
    """The format that a file of this name has, "png" or "nifti" and so on; "" if no format has such names."""
    return SUFFIXES.get(_ending(Path(path)), "")


def _ending(path: Path) -> str:
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else path.suffix.lower()


def format_of(path: Path) -> str:
    """By name and by content, which must agree; a file of any other name may be DICOM."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise Refusal(f"{path}: not a file (a folder or a device); a file is allowed")
    with path.open("rb") as file:
        start = file.read(132)
    if not start:
        raise Refusal(f"{path}: the file is empty")
    named = SUFFIXES.get(_ending(path))
    if named is None:
        if start[128:] != b"DICM":
            raise Refusal(
                f"{path}: not a known image file; {', '.join(SUFFIXES)} are allowed, and DICOM under any name"
            )
        return "dicom"
    inside = next((format for s, format in STARTS.items() if start.startswith(s)), None)
    if start[128:] == b"DICM":
        inside = "dicom"
    agrees = inside in (named, *MAY_START_AS.get(named, ()))
    agrees |= inside is None and named in ("nifti", "mat")
    if named == "dicom" and inside is None:
        raise Refusal(
            f"{path}: no DICM mark at byte 128; a DICOM file with its preamble is allowed"
        )
    if not agrees:
        raise Refusal(
            f"{path}: its name says {named}, its content {inside or 'something else'}; rename or repair it"
        )
    return named


def suffix(meta: Meta) -> str:
    """The file name ending under which `write` takes an image of this kind, ".png" or ".nii.gz" and so on."""
    return (
        ".nii.gz"
        if meta.format == "nifti"
        else next(s for s, format in SUFFIXES.items() if format == meta.format)
    )


def own_suffix(path: str | Path, meta: Meta) -> str:
    """The ending of a file's name, as it is written there, if `write` takes the image under it; else that of its format."""
    named = _ending(Path(path))
    held = SUFFIXES.get(named, "")
    return named if held and held in (meta.format, "zip") else suffix(meta)
