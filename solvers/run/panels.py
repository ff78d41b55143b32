"""truth | measurement | reconstruction | error | std, side by side on known grey scales with their numbers beside them."""

import PIL.Image
from torch import Tensor

from data.pictures import HEIGHT, beside, ceiling, channels, tile
from data.ranges import to_unit
from solvers.run.record import Outcome


def panel(outcome: Outcome) -> PIL.Image.Image:
    """The panel of one image. Truth and reconstruction share the scale 0 to 1; error and std go from 0 to their own maximum."""
    assert outcome.image is not None
    tiles = []
    if outcome.truth is not None:
        tiles.append(tile("truth", to_unit(outcome.truth), 0, 1))
    if outcome.y is not None:
        tiles.append(_measurement(outcome.y, outcome))
    several = outcome.draws is not None
    psnr = outcome.record.get("psnr")
    title = "posterior mean" if several else "reconstruction"
    tiles.append(tile(title + (f"  {psnr:.2f} dB" if psnr is not None else ""), to_unit(outcome.image), 0, 1))
    if outcome.truth is not None:
        error = (to_unit(outcome.image) - to_unit(outcome.truth)).abs()
        tiles.append(tile("absolute error", error, 0, ceiling(error)))
    if outcome.std is not None:
        std = outcome.std / 2  # [-1, 1] units -> report units
        tiles.append(tile("std of draws", std, 0, ceiling(std)))
    return beside(tiles)


def _measurement(y: Tensor, outcome: Outcome) -> PIL.Image.Image:
    """Image-like measurements keep the images' scale and place; a sinogram, k-space or amplitude gets its own."""
    image = outcome.image
    assert image is not None
    if outcome.image_like and y.ndim == 3 and len(y) == len(image) and float(y.abs().max()) <= 2:
        title, mode = f"measurement {y.shape[-2]} x {y.shape[-1]}", "nearest" if y.shape[-2] <= HEIGHT else "area"
        placed = to_unit(y) if outcome.grid is None else outcome.grid.nearest(to_unit(y), *image.shape[-2:])
        return tile(title, placed, 0, 1, mode=mode)
    y = y.flatten()[None, None] if y.ndim < 2 else y[None] if y.ndim == 2 else y.flatten(0, -3)
    y, title = channels(y), "measurement"
    if float(y.min()) >= 0 and float(y.max()) > 100 * float(y.mean()):  # a spectrum: its centre would be all one sees
        y, title = (1 + y / y.mean()).log(), "log(1 + y / mean)"
    low, high = float(y.min()), float(y.max())
    return tile(f"{title} {y.shape[-2]} x {y.shape[-1]}", y, low, high if high > low else low + 1)
