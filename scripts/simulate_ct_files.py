"""The files of simulate_ct.py: the sinogram, and the YAML that says its geometry."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data import formats
from solvers.operators.ct_geometry import Geometry


def description(
    options: argparse.Namespace,
    geometry: Geometry,
    shape: tuple[int, int],
    images: Sequence[formats.Image],
) -> dict:
    """The YAML of the sinogram."""
    fan, arc = geometry.fan, options.arc or (360.0 if geometry.fan else 180.0)
    said: dict = {
        "beam": options.geometry,
        "angles": {"start": options.start, "arc": arc},
        "direction": options.direction,
        "pitch": geometry.pitch,
        "bins_run": options.bins_run,
        "offset": options.offset,
    }
    if fan:
        said |= {"detector": options.detector, "source_to_axis": options.source_to_axis}
        said |= {"source_to_detector": options.source_to_detector}
    if options.counts:
        said |= {"values": "counts", "I0": options.counts + options.dark, "dark": options.dark}
        said |= {"electronic_noise": options.electronic_noise}
    else:
        said |= {"values": "integrals", "sigma_y": options.sigma or None}
    if options.dead:
        said["bad_channels"] = [int(bin) for bin in options.dead]
    said |= {
        "image_size": list(shape),
        "pixel_size": float(geometry.pixel_size),
        "mu_water": options.mu_water,
    }
    return said | placed(images)


def placed(images: Sequence[formats.Image]) -> dict:
    """Where the slices lie in the patient, if their files say it."""
    places = []
    for image in images:
        meta = image.meta
        if meta.affine is None:
            return {}
        rows, columns = image.pixels.shape[-2:]
        middle = np.array(meta.affine) @ [
            (rows - 1) / 2,
            (columns - 1) / 2,
            0 if meta.format == "dicom" else meta.index,
            1,
        ]
        places.append(np.diag([-1.0, -1.0, 1.0]) @ middle[:3])
    step = float(np.linalg.norm(places[-1] - places[0])) / max(1, len(places) - 1)
    said = {"position": [round(float(v), 4) for v in places[0]]}
    return said | ({"slice_step": round(step, 4)} if step else {})


def write(path: Path, data: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = path.suffix.lower()
    if suffix == ".npy":
        np.save(path, data)
    elif suffix in (".h5", ".hdf5"):
        import h5py

        with h5py.File(path, "w") as file:
            file.create_dataset("sinogram", data=data, compression="gzip")
    elif suffix == ".nrrd":
        import nrrd

        nrrd.write(str(path), data, index_order="C")
    else:
        import PIL.Image

        pages = [
            PIL.Image.fromarray(page.astype(np.float32))
            for page in (data if data.ndim == 3 else data[None])
        ]
        pages[0].save(path, save_all=True, append_images=pages[1:])
