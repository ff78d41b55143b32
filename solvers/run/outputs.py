"""The files of one restored image: the image and its draws in the format of its source, arrays as .npy, the panel as .png."""

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from data import formats
from data.files import commit, digest
from solvers.operators.grid import Grid
from solvers.run.panels import panel
from solvers.run.record import Outcome
from solvers.run.scans import Scan

FOLDERS = ("recon", "measurement", "operator", "panels", "samples", "std")


def file_name(image_id: str) -> str:
    """The id if it is a safe file name, else its safe part and a digest, so that no two ids share a file."""
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", image_id).lstrip(".")[:120]
    return safe if safe == image_id else f"{safe}-{digest(image_id)[:8]}"


def write(outcome: Outcome, folder: Path, origin: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """Write all files of one image below `folder`, each of them whole or not at all; returns their names by kind, and all names.

    origin: how the image was made, which DICOM files tell (keywords of `formats.write`). Raises Refusal in one line for what
    a format cannot hold.
    """
    scan, name = outcome.scan, file_name(outcome.image_id)
    assert outcome.image is not None and scan.source is not None and scan.intensity is not None
    suffix = formats.suffix(scan.source.meta)
    names: dict[str, str] = {}
    written: list[str] = []

    def place(kind: str, ending: str) -> Path:
        written.append(f"{kind}/{name}{ending}")
        names.setdefault(kind, written[-1])  # of several draws or tensors, the first
        (folder / kind).mkdir(exist_ok=True)
        return folder / kind / f"{name}{ending}"

    def image(pixels: Tensor, image_id: str, path: Path) -> None:
        formats.write(like_source(pixels, scan, outcome.record), path, image_id=image_id, **origin)

    image(outcome.image, outcome.image_id, place(outcome.folder, suffix))
    for k, draw in enumerate(outcome.draws if outcome.draws is not None else []):
        image(draw, f"{outcome.image_id}, draw {k}", place("samples", f"-{k:03d}{suffix}"))
    if outcome.std is not None:
        _write_array(formats.as_stored(outcome.std * scan.intensity.per_unit, scan.source.meta), place("std", ".npy"))
    if outcome.y is not None:
        unclear = outcome.y.ndim == 3 and len(outcome.y) not in (1, 3)  # would be read as a stack of slices
        _write_array(outcome.y[None] if unclear else outcome.y, place("measurement", ".npy"))
    for key, tensor in outcome.operator.items():
        _write_array(tensor, place("operator", f"-{key}.npy"))
    if outcome.truth is not None or outcome.y is not None:
        png = io.BytesIO()
        panel(outcome).save(png, "PNG")
        commit(place("panels", ".png"), png.getvalue())
    return names, written


def meta_of_result(source: formats.Image, image: Tensor, record: Mapping[str, Any]) -> formats.Meta:
    """What the source's file says, of a result: enlarged images get a finer spacing, colours that became gray are gray.

    record: tells as `grid` where the samples lay of a source that was itself measured; without it, the two cover one field of
    view.
    """
    meta = formats.with_channels(source.meta, len(image))
    new, old = image.shape[-2:], source.pixels.shape[-2:]
    if "grid" in record:
        grid = Grid(**{name: tuple(pair) for name, pair in record["grid"].items()})
        first = [-o / s for o, s in zip(grid.offset, grid.spacing)]
        last = [(m - 1) - (n - 1 - o) / s for m, n, o, s in zip(old, new, *grid)]
        return formats.resized(meta, grid.spacing, (first, last))
    factor = (new[0] / old[0], new[1] / old[1])
    return meta if factor == (1, 1) else formats.resized(meta, factor)


def like_source(image: Tensor, scan: Scan, record: Mapping[str, Any]) -> formats.Image:
    """An image in the model range, in stored units and with what its source's file says about itself."""
    assert scan.source is not None and scan.intensity is not None
    return formats.Image(scan.intensity.to_stored(image.float()), meta_of_result(scan.source, image, record))


def _write_array(values: Tensor, path: Path) -> None:
    out = io.BytesIO()
    np.save(out, values.numpy())
    commit(path, out.getvalue())
