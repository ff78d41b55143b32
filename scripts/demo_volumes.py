"""Reading the scans of the demo data set into arrays that are all turned the same way."""

import gzip
from collections.abc import Sequence
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pydicom
from PIL import Image


def volume(files: Sequence[Path]) -> np.ndarray:
    """One scan in stored units, float32, ordered (left, posterior, superior): increasing index goes that way.

    DICOM and JPEG are pictures as displayed (a radiograph's negative is turned into a positive), stacked along the last axis;
    several files are a series in that order. Every other format is one file.
    """
    first = files[0]
    if first.suffix == ".nrrd":
        stored, header = nrrd.read(str(first))
        for axis, direction in enumerate(
            header["space directions"]
        ):  # axis-aligned in these files; LPS space
            if direction[axis] < 0:
                stored = np.flip(stored, axis)
    elif first.name.endswith(".nii.gz"):
        canonical = nibabel.as_closest_canonical(nibabel.load(first))  # (right, anterior, superior)
        stored = np.asanyarray(canonical.dataobj)[::-1, ::-1]
        stored = stored.reshape(stored.shape[:3])  # a fourth axis of one
    elif first.suffix == ".npy":
        stored = np.load(first, allow_pickle=False)[::-1].T[
            :, None
        ]  # rows superior to inferior, columns to the left
    elif first.name.endswith(".ima.gz"):
        stored = np.frombuffer(gzip.decompress(first.read_bytes()), "<u2").reshape(1, 256, 256)
        stored = stored[:, ::-1].transpose(0, 2, 1)
    else:
        stored = np.concatenate([_frames(path) for path in files]).T
    return np.ascontiguousarray(stored, dtype=np.float32)


def _frames(path: Path) -> np.ndarray:
    """[frames, H, W] as displayed."""
    if path.suffix == ".jpg":
        return np.asarray(Image.open(path).convert("L"))[None]
    scan = pydicom.dcmread(path)
    pixels = scan.pixel_array * float(scan.get("RescaleSlope", 1)) + float(
        scan.get("RescaleIntercept", 0)
    )
    if scan.PhotometricInterpretation == "MONOCHROME1":
        pixels = -pixels
    if scan.get("ImageOrientationPatient", [0] * 6)[4] < 0:  # rows run to the front
        pixels = pixels[..., ::-1, :]
    return pixels.reshape(-1, *pixels.shape[-2:])
