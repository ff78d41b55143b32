"""truth | measurement | reconstruction | error | std, side by side on known grey scales with their numbers beside them."""

import io
import json
import math

import PIL.Image
import PIL.PngImagePlugin
import torch
from torch import Tensor
from torch.nn import functional

from data.pictures import HEIGHT, Box, beside, ceiling, channels, tile
from data.ranges import to_unit
from solvers.run.record import Outcome

REGION = 7  # a side of the enlarged region, as a part of the image's shorter one
Place = tuple[int, int, int, int]  # left, top, right, bottom: of a picture in its panel
Tile = tuple[str, Tensor, float, float]  # title, values, black, white
FLOOR = 1e-4  # of the largest amplitude: where spectra are black


def panel(outcome: Outcome) -> PIL.Image.Image:
    """The panel of one image. Truth and reconstruction share the scale 0 to 1; error and std go from 0 to their own maximum.

    `info["tiles"]` says where which picture lies: {"error": (left, top, right, bottom), …}.
    """
    assert outcome.image is not None
    box = worst_region(outcome) if outcome.zoom else None
    shown = {name: tile(*one, inset=box) for name, one in pictures(outcome).items()}
    tiles = {"truth": shown.pop("truth")} if "truth" in shown else {}
    if outcome.y is not None:
        tiles["measurement"] = _measurement(outcome.y, outcome, box)
        if outcome.axes and outcome.baseline is not None:
            tiles["classical"] = tile(
                "classical answer", to_unit(outcome.baseline), 0, 1, inset=box
            )
    return _row(tiles | shown)


def pictures(outcome: Outcome) -> dict[str, Tile]:
    """Truth, reconstruction, error and std, those that there are."""
    assert outcome.image is not None
    shown: dict[str, Tile] = {}
    if outcome.truth is not None:
        shown["truth"] = ("truth", to_unit(outcome.truth), 0.0, 1.0)
    psnr = outcome.record.get("psnr")
    title = "reconstruction" if outcome.spread is None else "posterior mean"
    shown["restored"] = (
        title + (f"  {psnr:.2f} dB" if psnr is not None else ""),
        to_unit(outcome.image),
        0.0,
        1.0,
    )
    if outcome.truth is not None:
        error = (to_unit(outcome.image) - to_unit(outcome.truth)).abs()
        shown["error"] = ("absolute error", error, 0.0, ceiling(error))
    if outcome.spread is not None:
        std = outcome.spread / 2  # [-1, 1] units -> report units
        shown["std"] = ("std of draws", std, 0.0, ceiling(std))
    return shown


def _row(tiles: dict[str, PIL.Image.Image]) -> PIL.Image.Image:
    sheet, left, places = beside(list(tiles.values())), 0, {}
    for name, one in tiles.items():
        a, b, c, d = one.info["box"]
        places[name] = (left + a, b, left + c, d)
        left += one.width
    sheet.info["tiles"] = places
    return sheet


def png(sheet: PIL.Image.Image) -> bytes:
    """The file of a panel; it says where its pictures lie (`places`)."""
    out, notes = io.BytesIO(), PIL.PngImagePlugin.PngInfo()
    notes.add_text("tiles", json.dumps(sheet.info.get("tiles", {})))
    sheet.save(out, "PNG", pnginfo=notes)
    return out.getvalue()


def places(sheet: PIL.Image.Image) -> dict[str, Place]:
    """Where the pictures of a panel's file lie; {} of a picture that is none."""
    return json.loads(sheet.info.get("tiles", "{}"))


def worst_region(outcome: Outcome) -> Box | None:
    """The square with the largest mean error; without a truth, with the largest spread; None where neither is known."""
    assert outcome.image is not None
    error = outcome.std if outcome.truth is None else (outcome.image - outcome.truth).abs()
    if error is None:
        return None
    side = max(min(error.shape[-2:]) // REGION, 2)
    mean = functional.avg_pool2d(error.mean(0, keepdim=True), side, 1)[0]
    worst = int(mean.argmax())
    return worst // mean.shape[1], worst % mean.shape[1], side


def before(outcome: Outcome) -> Tensor | None:
    """What the data show by themselves, as an image [C,H,W] in the model range, NaN where nothing was measured.

    A measurement of pixels at its place; of others the operator's classical answer, None if it has none.
    """
    y, image = outcome.y, outcome.image
    assert image is not None
    if y is None or not _pictured(y, outcome):
        return outcome.baseline
    placed = y if outcome.grid is None else outcome.grid.nearest(y, *image.shape[-2:])
    if placed.shape[-2:] != image.shape[-2:]:
        return outcome.baseline
    return _masked(placed, outcome)


def _pictured(y: Tensor, outcome: Outcome) -> bool:
    """Whether y is on the images' scale, sample by sample."""
    assert outcome.image is not None
    return outcome.image_like and y.ndim == 3 and len(y) == len(outcome.image) and on_scale(y)


def on_scale(y: Tensor) -> bool:
    """Whether y is of the model range and noise, which no sinogram is."""
    return float(y.abs().max()) <= 2


def _measurement(y: Tensor, outcome: Outcome, box: Box | None) -> PIL.Image.Image:
    """Image-like measurements keep the images' scale and place; sinograms have axes, spectra are logarithms with their mask."""
    image = outcome.image
    assert image is not None
    if _pictured(y, outcome):
        title, mode = (
            f"measurement {y.shape[-2]} x {y.shape[-1]}",
            "nearest" if y.shape[-2] <= HEIGHT else "area",
        )
        placed = (
            to_unit(y)
            if outcome.grid is None
            else outcome.grid.nearest(to_unit(y), *image.shape[-2:])
        )
        fits = placed.shape[-2:] == image.shape[-2:]
        return tile(title, _masked(placed, outcome), 0, 1, mode=mode, inset=box if fits else None)
    y = y.flatten()[None, None] if y.ndim < 2 else y[None] if y.ndim == 2 else y.flatten(0, -3)
    y, axes = channels(y), outcome.axes
    size = f"{y.shape[-2]} x {y.shape[-1]}"
    if axes and axes.spectral:
        top = float(y.max().clamp_min(torch.finfo(y.dtype).tiny))
        return tile(
            f"log10 |y| / max  {size}",
            _masked((y / top).clamp_min(FLOOR).log10(), outcome),
            math.log10(FLOOR),
            0,
            axes=axes[:2],
        )
    low, high = float(y.min()), float(y.max())
    return tile(
        f"measurement {size}", y, low, high if high > low else low + 1, axes=axes and axes[:2]
    )


def _masked(picture: Tensor, outcome: Outcome) -> Tensor:
    """NaN where a mask of the operator says that nothing was measured."""
    mask = outcome.operator.get("mask")
    return (
        picture
        if mask is None or mask.shape[-2:] != picture.shape[-2:]
        else picture.masked_fill(mask == 0, math.nan)
    )
