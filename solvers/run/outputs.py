"""The files of one restored image: the image and its draws in the format of its source, arrays as .npy, the panel as .png.

A volume is one image: one file, or one folder of a DICOM series. Slices that are restored one by one wait in `slices/`.
"""

import io
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from data import formats
from data.files import commit, digest
from data.pictures import HEIGHT, ceiling, tile
from solvers.operators.grid import Grid
from solvers.run.interrupted import STATE
from solvers.run.panels import panel, png
from solvers.run.planes import planes
from solvers.run.record import Outcome
from solvers.run.scans import Scan

SLICES = "slices"  # the folder of a volume's slices, until it is put together
FOLDERS = ("recon", "measurement", "operator", "panels", "samples", "std", SLICES, STATE)


def file_name(image_id: str) -> str:
    """The id if it is a safe file name, else its safe part and a digest, so that no two ids share a file."""
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", image_id).lstrip(".")[:120]
    return safe if safe == image_id else f"{safe}-{digest(image_id)[:8]}"


class Files:
    """Where the files of an outcome go, below `folder` and there `within`; `names` by kind, and all that are `written`."""

    def __init__(self, folder: Path, name: str, within: str = ""):
        self.folder, self.name, self.within = folder, name, within
        self.names: dict[str, str] = {}
        self.written: list[str] = []

    def place(self, kind: str, ending: str) -> Path:
        """The path of a file, whose folder is made."""
        name = f"{self.within}{kind}/{self.name}{ending}"
        self.written.append(name)
        self.names.setdefault(kind, name)  # of several draws or tensors, the first
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        return self.folder / name


def write(
    outcome: Outcome, folder: Path, origin: Mapping[str, Any]
) -> tuple[dict[str, str], list[str]]:
    """Write all files of one image below `folder`, each of them whole or not at all; returns their names by kind, and all names.

    origin: how the image was made, which DICOM files tell (keywords of `formats.write`). Raises Refusal in one line for what
    a format cannot hold.
    """
    scan = outcome.scan
    if scan.slices:
        return write_volume(outcome, folder, origin)
    files = Files(folder, file_name(outcome.image_id), f"{SLICES}/" * bool(scan.volume))
    assert outcome.image is not None and scan.source is not None and scan.intensity is not None
    suffix = formats.suffix(scan.source.meta)

    def image(pixels: Tensor, word: str, path: Path) -> None:
        made = like_source(pixels, scan, outcome.record)
        formats.write(made, path, image_id=outcome.image_id, kind=word, **origin)

    image(outcome.image, "", files.place(outcome.folder, suffix))
    for k, draw in enumerate(outcome.draws if outcome.draws is not None else []):
        image(draw, f"draw {k}", files.place("samples", f"-{k:03d}{suffix}"))
    if outcome.std is not None:
        spread = formats.as_stored(outcome.std * scan.intensity.per_unit, scan.source.meta)
        write_array(spread, files.place("std", ".npy"))
        height = max(HEIGHT, spread.shape[-2])
        commit(
            files.place("std", ".png"),
            png(tile("std of draws", spread, 0, ceiling(spread), height)),
        )
    _write_measured(outcome, files)
    return files.names, files.written


def write_volume(
    outcome: Outcome, folder: Path, origin: Mapping[str, Any]
) -> tuple[dict[str, str], list[str]]:
    """`write` of a volume: image, draws and spread as volumes of the source's format, in its space."""
    scan = outcome.scan
    assert outcome.image is not None and scan.intensity is not None
    files = Files(folder, file_name(scan.volume))
    first, step = outcome.record.get("slices_at", (0.0, 1.0))
    metas = formats.stacked(
        [_source(one).meta for one in scan.slices], first, step, outcome.image.shape[1]
    )
    suffix = (
        ""
        if metas[0].format == "dicom" and metas[0].count == 1
        else scan.suffix or formats.suffix(metas[0])
    )
    # a volume's slice is another object than the slice that was written alone
    ids = [f"{scan.volume}, slice {k}" for k in range(len(metas))]

    def volume(values: Tensor, metas: Sequence[formats.Meta], word: str, path: Path) -> None:
        images = [
            _image(values[:, k], meta, _source(scan.slices[0]), outcome.record)
            for k, meta in enumerate(metas)
        ]
        if path.is_dir():  # a series is a folder, which appears whole or not at all
            shutil.rmtree(path)
        formats.reassemble(images, path, image_ids=ids, kind=word, **origin)
        if path.is_dir():
            files.written.remove(name := path.relative_to(folder).as_posix())
            files.written += sorted(f"{name}/{file.name}" for file in path.iterdir())

    volume(
        scan.intensity.to_stored(outcome.image.float()),
        metas,
        "",
        files.place(outcome.folder, suffix),
    )
    for k, draw in enumerate(outcome.draws if outcome.draws is not None else []):
        volume(
            scan.intensity.to_stored(draw.float()),
            metas,
            f"draw {k}",
            files.place("samples", f"-{k:03d}{suffix}"),
        )
    if outcome.std is not None:
        spread = outcome.std * scan.intensity.per_unit
        volume(
            spread,
            [formats.spread(meta, float(spread.max())) for meta in metas],
            "std",
            files.place("std", suffix),
        )
    _write_measured(outcome, files)
    return files.names, files.written


def volume_images(outcome: Outcome) -> tuple[list[formats.Image], list[str]]:
    """The slices of a restored volume as they are written, and their ids."""
    scan = outcome.scan
    assert outcome.image is not None and scan.intensity is not None
    first, step = outcome.record.get("slices_at", (0.0, 1.0))
    metas = formats.stacked(
        [_source(one).meta for one in scan.slices], first, step, outcome.image.shape[1]
    )
    values = scan.intensity.to_stored(outcome.image.float())
    images = [
        _image(values[:, k], meta, _source(scan.slices[0]), outcome.record)
        for k, meta in enumerate(metas)
    ]
    return images, [f"{scan.volume}, slice {k}" for k in range(len(metas))]


def _write_measured(outcome: Outcome, files: Files) -> None:
    """What was measured, masks and kernels, and the panel."""
    y = outcome.y
    if y is not None:
        unclear = y.ndim == 3 and len(y) not in (1, 3)  # would be read as a stack of slices
        write_array(y[None] if unclear else y, files.place("measurement", ".npy"))
    for key, tensor in outcome.operator.items():
        write_array(tensor, files.place("operator", f"-{key}.npy"))
    if outcome.truth is not None or y is not None:
        sheet = (planes if outcome.scan.slices else panel)(outcome)
        commit(files.place("panels", ".png"), png(sheet))


def _source(scan: Scan) -> formats.Image:
    assert scan.source is not None
    return scan.source


def _image(
    values: Tensor, meta: formats.Meta, source: formats.Image, record: Mapping[str, Any]
) -> formats.Image:
    """A slice in stored units, with the pixels that the result has."""
    return formats.Image(values, meta_of_result(formats.Image(source.pixels, meta), values, record))


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
    return formats.Image(
        scan.intensity.to_stored(image.float()), meta_of_result(scan.source, image, record)
    )


def write_array(values: Tensor, path: Path) -> None:
    out = io.BytesIO()
    np.save(out, values.numpy())
    commit(path, out.getvalue())
