"""The one value every file becomes: pixels in stored units, and what is needed to write them back."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from warnings import catch_warnings, simplefilter

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data import files
from data.files import Refusal

RASTER = ("png", "jpeg", "bmp", "tiff")
Affine = tuple[tuple[float, ...], ...]
Turn = tuple[bool, bool, bool]  # transposed, then rows reversed, then columns reversed


@dataclass(frozen=True)
class Meta:
    """What a file says about its pixels. A new PNG needs no more than `Meta("png", "uint16")`.

    pixels = slope · stored + intercept; `window` is what the file wants to be shown, in the units of `pixels`.
    Never printed: `header`, which may name the patient. `subject` and `series` are digests, not the identifiers themselves.
    """

    format: str  # png jpeg tiff dicom nifti nrrd npy npz hdf5 mat
    dtype: str = "uint8"  # numpy name of the stored numbers
    bits: int = 0  # bits used of an integer dtype; 0: all of them
    slope: float = 1.0
    intercept: float = 0.0
    window: tuple[float, float] | None = None  # (low, high)
    index: int = 0  # which image of the file, 0 … count − 1
    count: int = 1
    axis: int = 2  # slice axis of a volume
    shape: tuple[int, ...] = ()  # of the stored array, for volumes and stacks
    spacing: tuple[float, float] | None = None  # mm from row to row, from column to column
    affine: Affine | None = (
        None  # 4×4: array index (DICOM: row, column, slice) → mm to the right, front, head (RAS)
    )
    turn: Turn = (
        False,
        False,
        False,
    )  # what `upright` did to the stored slice, undone on the way out
    photometric: str = ""  # gray, rgb, or DICOM's own word
    complex: bool = False  # channels are real, imaginary, real, imaginary … one pair per coil
    modality: str = ""  # DICOM's word, "CT" or "MR"; "" where the file does not say
    subject: str | None = None
    series: str | None = None  # which volume, stack or DICOM series this is a slice of
    source: str = ""  # which image this is: digest of the DICOM instance and frame
    position: float | None = None  # mm along the normal of a DICOM series
    label: int | None = None
    key: str = ""  # array inside an NPZ, HDF5 or MAT file, image inside a ZIP
    layout: str = ""  # of a stored array: h w, channels c, slices n
    notes: tuple[str, ...] = ()  # what a record must say of how the file was read
    padded: Tensor | None = field(
        default=None, repr=False, compare=False
    )  # [1, H, W]: padding as it was read, else NaN
    header: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, eq=False)
class Image:
    """pixels: float32 [C, H, W] in stored units (DICOM and NIfTI: after rescale slope and intercept)."""

    pixels: Tensor
    meta: Meta


def with_channels(meta: Meta, channels: int) -> Meta:
    """What `meta` says, of an image of this many channels: colours made one are gray, complex numbers made one are real."""
    if meta.complex and channels % 2:
        return replace(meta, complex=False, dtype=np.dtype(meta.dtype).type(0).real.dtype.name)
    if meta.photometric.lower() == "rgb" and channels == 1:
        return replace(meta, photometric="MONOCHROME2" if meta.format == "dicom" else "gray")
    return meta


def digest(*parts: str) -> str:
    """32 hex digits that stand for `parts`. A pseudonym, not a secret: short numeric patient ids can be found by trying all."""
    return files.digest(*parts)[:32]


def unpadded(image: Image) -> Tensor:
    """The values of an image that show something, in a row: without its padding. None if it is nothing but padding."""
    pixels, padded = image.pixels, image.meta.padded
    if padded is None or padded.shape[1:] != pixels.shape[1:]:
        return pixels.flatten()
    return pixels[padded.isnan().expand_as(pixels)]


def limits(meta: Meta) -> tuple[int, int]:
    """The least and greatest integer that the file can hold."""
    dtype = np.dtype(meta.dtype)
    bits = meta.bits or dtype.itemsize * 8
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if dtype.kind == "i" else (0, (1 << bits) - 1)


def depth(meta: Meta) -> tuple[float, float] | None:
    """All that a picture of up to 8 bits, a colour image or a PNG, JPEG, BMP or TIFF of up to 16 bits can hold, else None.

    Deeper numbers and those of scanners seldom use what they could hold.
    """
    if np.dtype(meta.dtype).kind != "u":
        return None
    bits = meta.bits or np.dtype(meta.dtype).itemsize * 8
    whole = {**dict.fromkeys(RASTER, 16), "dicom": 16 if meta.photometric == "RGB" else 8}
    if bits > whole.get(meta.format, 0):
        return None
    low, high = sorted(meta.slope * v + meta.intercept for v in limits(meta))
    return low, high


def from_stored(
    stored: np.ndarray, meta: Meta, path: str | Path, padding: np.ndarray | None = None
) -> Image:
    """stored [C, H, W] (complex: [coils, H, W]) → Image. Refuses NaN, Inf and numbers that float32 cannot tell apart.

    padding [H, W] is true where the file says that there is no image.
    """
    if stored.ndim != 3 or 0 in stored.shape:
        raise Refusal(
            f"{path}: image of shape {stored.shape} has no pixels; [channels, height, width] ≥ 1 is allowed"
        )
    if np.iscomplexobj(stored):
        meta = replace(meta, complex=True)
        stored = np.stack([stored.real, stored.imag], 1).reshape(-1, *stored.shape[1:])
    bad = stored.size - int(np.isfinite(stored).sum())
    if bad:
        raise Refusal(
            f"{path}: {bad} of {stored.size} values are NaN or infinite; only finite values are allowed"
        )
    plain = meta.slope == 1 and meta.intercept == 0
    with np.errstate(over="ignore"):  # seen just below
        values = stored if plain else stored.astype(np.float64) * meta.slope + meta.intercept
        pixels = values.astype(np.float32)
    peak = max(-float(pixels.min()), float(pixels.max()))
    if not np.isfinite(peak):
        raise Refusal(f"{path}: values beyond ±3.4e38 do not fit in float32; rescale the file")
    # float32 rounds p by at most |p|·2⁻²⁴: half a stored unit (slope/2) needs |p| ≤ 2²³·slope.
    if np.dtype(meta.dtype).kind in "iu" and peak > 2**23 * abs(meta.slope):
        raise Refusal(
            f"{path}: value {peak:g} is over 2^23 stored units from zero; float32 pixels would lose its last bits"
        )
    image = Image(torch.from_numpy(np.ascontiguousarray(pixels)), meta)
    if padding is not None and padding.any():
        padded = image.pixels.masked_fill(~torch.from_numpy(padding), torch.nan)
        image = replace(image, meta=replace(meta, padded=padded))
    return image


def to_stored(image: Image) -> np.ndarray:
    """Image → stored [C, H, W] (complex: [coils, H, W]) in the file's own dtype.

    Integers are rounded to the nearest and clipped at the representable range and nowhere else. Padding is put back as it was,
    scaled with the image where that has another size.
    """
    pixels, meta = image.pixels.detach().cpu(), image.meta
    if pixels.ndim != 3:
        raise Refusal(
            f"pixels of shape {tuple(pixels.shape)} cannot be written; [C, H, W] is allowed"
        )
    if not bool(torch.isfinite(pixels).all()):
        raise Refusal("pixels hold NaN or Inf and are not written; only finite values are allowed")
    if meta.padded is not None:
        padded = F.interpolate(meta.padded[None], pixels.shape[-2:], mode="nearest-exact")[0]
        pixels = torch.where(padded.isnan(), pixels, padded.to(pixels))
    dtype = np.dtype(meta.dtype)
    values = pixels.double().numpy()
    if meta.slope != 1 or meta.intercept != 0:
        values = (values - meta.intercept) / meta.slope
    if meta.complex and len(values) % 2:
        raise Refusal(
            f"{len(values)} channels cannot be written as complex numbers; real and imaginary in turn are allowed"
        )
    if meta.complex:
        return (values[0::2] + 1j * values[1::2]).astype(dtype)
    if dtype.kind in "iub":
        low, high = limits(meta)
        return np.rint(values).clip(low, high).astype(dtype)
    return values.clip(np.finfo(dtype).min, np.finfo(dtype).max).astype(dtype)


def check_index(index: int | None, count: int, path: str | Path, what: str = "images") -> int:
    """The image meant by `index`; None is allowed only where there is a single one."""
    if index is None and count == 1:
        return 0
    if index is None:
        raise Refusal(f"{path}: holds {count} {what}; an index 0 to {count - 1} is needed")
    if not 0 <= index < count:
        raise Refusal(f"{path}: index {index} is outside 0 to {count - 1}")
    return index


@contextmanager
def decoding(path: str | Path, what: str, private: bool = False) -> Iterator[None]:
    """Around calls of a foreign decoder: whatever it raises becomes one line.

    Pillow, pydicom, nibabel, pynrrd and h5py raise some twenty exception types for damaged files; all mean the same to a user.
    Their warnings are dropped because they quote header values; private: so do the error texts, and only the type is told.
    """
    try:
        with catch_warnings():
            simplefilter("ignore")
            yield
    except (ImportError, Refusal):
        raise
    except Exception as error:
        kind, text = type(error).__name__, " ".join(str(error).split())[:300]
        reason = (
            kind
            if private
            else text
            if isinstance(error, ValueError) and text
            else f"{kind}: {text}"
        )
        raise Refusal(
            f"{path}: not a readable {what} ({reason}); an undamaged {what} file is allowed"
        ) from error
