"""Volumes and their slices, for NIfTI and NRRD alike.

A slice is what `np.take(array, k, axis)` gives, in the order of the file: the lower remaining axis runs down the rows.
`upright` turns it the way it is looked at. The images of a 4-D volume are counted slice first, then time: index = t·n + k.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from data.files import Refusal
from data.formats.image import Affine, Image, Meta, check_index, from_stored, to_stored

Pair = tuple[float, float]  # along the rows' axis, along the columns' axis


@dataclass(frozen=True)
class Volume:
    """array: stored numbers, [X, Y, Z, T] or with colours [X, Y, Z, T, 3]; meta: what its slices share (shape as stored)."""

    array: np.ndarray
    meta: Meta


def count(volume: Volume, axis: int) -> int:
    """Slices along `axis` times repetitions."""
    return volume.array.shape[axis] * volume.array.shape[3]


def slice_of(volume: Volume, index: int | None, axis: int, path: str | Path) -> Image:
    """One slice → Image."""
    if axis not in (0, 1, 2):
        raise Refusal(f"{path}: slice axis {axis}; 0, 1 or 2 is allowed")
    index = check_index(index, total := count(volume, axis), path, "slices")
    t, k = divmod(index, volume.array.shape[axis])
    stored = volume.array[:, :, :, t][
        (slice(None),) * axis + (k,)
    ]  # a view: np.take would copy the whole volume first
    stored = stored.transpose(2, 0, 1) if stored.ndim == 3 else stored[None]
    rows, columns = _in_plane(axis)
    sides = _steps(volume.meta.affine)
    spacing = (sides[rows], sides[columns]) if sides else None
    return from_stored(
        stored, replace(volume.meta, index=index, count=total, axis=axis, spacing=spacing), path
    )


def upright(image: Image) -> Image:
    """The image as it is looked at: head up, else face up; the patient's right on the left. `write` undoes it.

    Only slices of volumes are turned: their files leave the direction open. DICOM and pictures are stored upright.
    A volume that does not say how it lies is taken for the usual order (NIfTI: right to left, back to front, feet to head;
    NRRD: right to left, front to back, feet to head).
    """
    meta = image.meta
    if (
        meta.format not in ("nifti", "nrrd")
        or meta.affine is None
        or meta.turn != (False, False, False)
    ):
        return image
    toward = np.array(meta.affine)[:3, :3]
    rows, columns = (int(np.abs(toward[:, axis]).argmax()) for axis in _in_plane(meta.axis))
    if rows == columns:  # an oblique slice at 45 degrees: no direction is better than another
        return image
    transposed = (
        columns > rows
    )  # the direction nearer to the head (right = 0, front = 1, head = 2) runs down the rows
    down, across = _in_plane(meta.axis)[:: -1 if transposed else 1]
    # down the rows: toward feet or back; across: toward the left hand or the back. Each is the negative RAS direction.
    flips = [bool(toward[:, axis][np.abs(toward[:, axis]).argmax()] > 0) for axis in (down, across)]
    turn = (transposed, flips[0], flips[1])
    spacing = meta.spacing[::-1] if meta.spacing and transposed else meta.spacing
    return Image(_turned(image.pixels, turn), replace(meta, turn=turn, spacing=spacing))


def resized(
    meta: Meta, factor: float | Pair, ends: Sequence[Sequence[float]] | None = None
) -> Meta:
    """What `meta` says after each pixel was divided into factor × factor, or factor[0] rows and factor[1] columns.

    ends: how far the first new pixel lies behind the first old one, and the last new one before the last old one, in old
    pixels along (rows, columns). Left out, the outer edges stay: both are (1/factor − 1)/2.
    """
    factors = factor if isinstance(factor, tuple) else (factor, factor)
    if not min(factors) > 0:
        raise Refusal(f"resize factor {factor}; a positive number is allowed")
    spacing = meta.spacing and (meta.spacing[0] / factors[0], meta.spacing[1] / factors[1])
    if meta.affine is None:
        return replace(meta, spacing=spacing)
    edges = [(1 / f - 1) / 2 for f in factors]
    first, last = ends or (edges, edges)
    transposed, *flips = meta.turn
    change, axes = np.eye(4), _in_plane(meta.axis)
    for axis, upright in zip(axes, (1, 0) if transposed else (0, 1)):
        change[axis, axis] = 1 / factors[upright]
        change[axis, 3] = (last if flips[upright] else first)[upright]
    return replace(meta, spacing=spacing, affine=as_affine(np.array(meta.affine) @ change))


def assemble(images: Sequence[Image]) -> Volume:
    """All slices of a volume, in any order, or a single one → Volume. A single slice keeps its place in space."""
    metas = [image.meta for image in images]
    first = metas[0]
    order = sorted(range(len(images)), key=lambda i: metas[i].index)
    alone = len(images) == 1
    if not alone:
        check_complete(metas)
    slices = [to_stored(Image(as_stored(image.pixels, image.meta), image.meta)) for image in images]
    if len({s.shape for s in slices}) > 1:
        raise Refusal("slices of one volume have different sizes; one size is allowed")
    stack = np.stack([slices[i] for i in order])  # [n·T, C, H, W]
    repeats = 1 if alone else _sizes(first.shape)[3]
    stack = stack.reshape(repeats, -1, *stack.shape[1:])  # [T, n, C, H, W]
    array = np.moveaxis(stack, (0, 2), (-2, -1))  # [n, H, W, T, C]
    array = np.moveaxis(array, 0, first.axis)
    shape = array.shape[: max(3, len(first.shape))] if not alone else array.shape[:3]
    if not alone and len(first.shape) == 2:
        shape = array.shape[:2]
    affine = first.affine
    if alone and affine is not None:
        move = np.eye(4)
        move[first.axis, 3] = first.index % _sizes(first.shape)[first.axis]
        affine = as_affine(np.array(affine) @ move)
    array = array[..., 0] if array.shape[-1] == 1 else array
    return Volume(array, replace(first, affine=affine, shape=shape))


def check_complete(metas: Sequence[Meta]) -> None:
    """Every image of one file exactly once, or a Refusal that names what is missing or doubled."""
    first = metas[0]
    if len({(m.series, m.format, m.axis, m.count, m.affine) for m in metas}) > 1:
        raise Refusal(
            "images of different volumes (or resized differently) cannot be put together; one volume is allowed"
        )
    present = [m.index for m in metas]
    missing = sorted(set(range(first.count)) - set(present))
    if missing or len(present) != first.count:
        names = ", ".join(map(str, missing[:8])) + (" …" if len(missing) > 8 else "")
        fault = f"slices {names} are missing" if missing else "some slices are given twice"
        raise Refusal(
            f"a volume of {first.count} slices is incomplete: {fault}; every slice once is allowed"
        )


def four_dimensional(array: np.ndarray) -> np.ndarray:
    """[X, Y], [X, Y, Z] or [X, Y, Z, T] → [X, Y, Z, T]."""
    return array.reshape(_sizes(array.shape))


def as_affine(matrix: np.ndarray | None) -> Affine | None:
    """A hashable 4×4, or None if the matrix cannot be a place in space."""
    if (
        matrix is None
        or not np.isfinite(matrix).all()
        or abs(np.linalg.det(matrix[:3, :3])) < 1e-30
    ):
        return None
    return tuple(tuple(float(v) for v in row) for row in matrix)


def _sizes(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    x, y, z, t = (*shape, 1, 1, 1, 1)[:4]
    return x, y, z, t


def _in_plane(axis: int) -> tuple[int, int]:
    rows, columns = (a for a in range(3) if a != axis)
    return rows, columns


def _steps(affine: Affine | None) -> list[float] | None:
    return (
        None
        if affine is None
        else [float(s) for s in np.linalg.norm(np.array(affine)[:3, :3], axis=0)]
    )


def _turned(pixels: torch.Tensor, turn: tuple[bool, bool, bool]) -> torch.Tensor:
    transposed, rows, columns = turn
    pixels = pixels.mT if transposed else pixels
    return pixels.flip([d for d, flip in ((1, rows), (2, columns)) if flip]).contiguous()


def as_stored(pixels: torch.Tensor, meta: Meta) -> torch.Tensor:
    """[..., H, W] that lie as `upright` turned the image of this meta, turned back to how its file has them."""
    transposed, rows, columns = meta.turn
    pixels = pixels.flip([d for d, flip in ((1, rows), (2, columns)) if flip])
    return pixels.mT if transposed else pixels
