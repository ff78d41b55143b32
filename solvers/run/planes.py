"""The panel of a volume: planes through its middle along the three axes, with square millimetres."""

from collections.abc import Callable

import PIL.Image
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from data import formats
from data.files import Refusal
from data.pictures import beside, tile
from data.ranges import to_unit
from solvers.run.panels import on_scale, pictures
from solvers.run.record import Outcome

PLANES = ("slices", "rows", "columns")  # what is counted along D, H and W


def planes(outcome: Outcome) -> PIL.Image.Image:
    """The panel of a volume: the planes through the middle along its three axes, with square millimetres."""
    sides = _spacing(outcome)
    shown = list(pictures(outcome).values())
    upward = _upward(outcome)
    if (
        outcome.y is not None
        and outcome.image_like
        and outcome.image is not None
        and outcome.y.ndim == outcome.image.ndim
        and on_scale(outcome.y)
    ):
        y = _stretched(to_unit(outcome.y), outcome.image)
        shown.insert(
            outcome.truth is not None, (f"measurement, {outcome.y.shape[1]} slices", y, 0.0, 1.0)
        )
    rows = []
    for axis, name in enumerate(PLANES):
        middle = shown[0][1].shape[axis + 1] // 2
        cut = [
            (title, _square(upward(x.select(axis + 1, middle), axis), axis, sides), a, b)
            for title, x, a, b in shown
        ]
        rows.append(beside([tile(f"{title}  ({name} {middle})", *rest) for title, *rest in cut]))  # type: ignore[arg-type]
    sheet = PIL.Image.new(
        "RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white"
    )
    for i, row in enumerate(rows):
        sheet.paste(row, (0, sum(before.height for before in rows[:i])))
    return sheet


def _upward(outcome: Outcome) -> Callable[[Tensor, int], Tensor]:
    """Turns a plane whose rows are slices, so that the last one is above where slices go to the head or the front."""
    metas = [one.source.meta for one in outcome.scan.slices if one.source]
    affines = [
        torch.tensor(meta.affine) for meta in (metas[0], metas[-1]) if meta.affine is not None
    ]
    if len(affines) < 2:
        return lambda plane, axis: plane
    dicom = metas[0].format == "dicom"
    way = affines[1][:3, 3] - affines[0][:3, 3] if dicom else affines[0][:3, metas[0].axis]
    flipped = bool(way[way.abs().argmax()] > 0)
    return lambda plane, axis: plane.flip(-2) if axis and flipped else plane


def _spacing(outcome: Outcome) -> tuple[float, float, float]:
    """mm along D, H and W of the result; 1 where nobody knows."""
    try:
        found = formats.spacing([one.source.meta for one in outcome.scan.slices if one.source])
    except Refusal:
        found = None
    if found is None or outcome.image is None:
        return 1.0, 1.0, 1.0
    step = outcome.record.get("slices_at", (0.0, 1.0))[1]
    old = outcome.scan.slices[0].source.pixels.shape[-2:]  # type: ignore[union-attr]
    return found[0] * step, *(
        f * n / m for f, n, m in zip(found[1:], old, outcome.image.shape[-2:])
    )  # type: ignore[return-value]


def _square(plane: Tensor, axis: int, sides: tuple[float, float, float]) -> Tensor:
    """[C,rows,columns] with pixels repeated until they are as wide as they are high."""
    height, width = (side for i, side in enumerate(sides) if i != axis)
    least = min(height, width)
    size = [max(round(n * side / least), 1) for n, side in zip(plane.shape[-2:], (height, width))]
    return (
        interpolate(plane[None], size, mode="nearest-exact")[0]
        if size != list(plane.shape[-2:])
        else plane
    )


def _stretched(y: Tensor, image: Tensor) -> Tensor:
    """y [C,m,H,W] with its slices, rows and columns repeated to the size of the image."""
    return (
        y
        if y.shape[1:] == image.shape[1:]
        else interpolate(y[None], image.shape[1:], mode="nearest-exact")[0]
    )
