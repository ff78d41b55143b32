"""truth | measurement | reconstruction | error | std, side by side on known grey scales with their numbers beside them."""

import math

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import torch
from torch import Tensor
from torch.nn import functional

from data.ranges import to_unit
from solvers.run.record import Outcome

HEIGHT = 256  # pixels of a picture in the panel; small scans are enlarged by pixel repetition
BAR, MARGIN, TITLE = 10, 8, 22


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
        tiles.append(tile("absolute error", error, 0, _ceiling(error)))
    if outcome.std is not None:
        std = outcome.std / 2  # [-1, 1] units -> report units
        tiles.append(tile("std of draws", std, 0, _ceiling(std)))
    width = sum(t.width for t in tiles)
    sheet = PIL.Image.new("RGB", (width, tiles[0].height), "white")
    for t, left in zip(tiles, np.cumsum([0, *(t.width for t in tiles)])):
        sheet.paste(t, (int(left), 0))
    return sheet


def tile(title: str, values: Tensor, low: float, high: float, mode: str = "") -> PIL.Image.Image:
    """One picture [C,H,W] with its title, and a bar that says which value is black and which is white."""
    picture = _picture((_visible(values) - low) / (high - low), mode)
    font = PIL.ImageFont.load_default(13)
    numbers = [f"{high:.3g}", f"{low:.3g}"]
    room = BAR + 4 + max(math.ceil(font.getlength(n)) for n in numbers)
    out = PIL.Image.new("RGB", (picture.width + room + 3 * MARGIN, HEIGHT + TITLE + MARGIN), "white")
    draw = PIL.ImageDraw.Draw(out)
    while font.getlength(title) > out.width - 2 * MARGIN and len(title) > 4:
        title = title[:-2].rstrip(" ….") + "…"
    draw.text((MARGIN, 4), title, fill="black", font=font)
    out.paste(picture, (MARGIN, TITLE))
    left = picture.width + 2 * MARGIN
    ramp = np.linspace(255, 0, HEIGHT).round().astype(np.uint8)[:, None].repeat(BAR, 1)
    out.paste(PIL.Image.fromarray(ramp), (left, TITLE))
    draw.rectangle((left, TITLE, left + BAR - 1, TITLE + HEIGHT - 1), outline="gray")
    draw.text((left + BAR + 4, TITLE), numbers[0], fill="black", font=font)
    draw.text((left + BAR + 4, TITLE + HEIGHT - 16), numbers[1], fill="black", font=font)
    return out


def _measurement(y: Tensor, outcome: Outcome) -> PIL.Image.Image:
    """Image-like measurements keep the images' scale and place; a sinogram, k-space or amplitude gets its own."""
    image = outcome.image
    assert image is not None
    if outcome.image_like and y.ndim == 3 and len(y) == len(image) and float(y.abs().max()) <= 2:
        title, mode = f"measurement {y.shape[-2]} x {y.shape[-1]}", "nearest" if y.shape[-2] <= HEIGHT else "area"
        placed = to_unit(y) if outcome.grid is None else outcome.grid.nearest(to_unit(y), *image.shape[-2:])
        return tile(title, placed, 0, 1, mode)
    y = y.flatten()[None, None] if y.ndim < 2 else y[None] if y.ndim == 2 else y.flatten(0, -3)
    y, title = _visible(y), "measurement"
    if float(y.min()) >= 0 and float(y.max()) > 100 * float(y.mean()):  # a spectrum: its centre would be all one sees
        y, title = (1 + y / y.mean()).log(), "log(1 + y / mean)"
    low, high = float(y.min()), float(y.max())
    return tile(f"{title} {y.shape[-2]} x {y.shape[-1]}", y, low, high if high > low else low + 1)


def _visible(x: Tensor) -> Tensor:
    """[C,H,W] as one gray or three colour channels; complex pairs (real, imaginary) as their magnitude."""
    x = x.float()
    if len(x) in (1, 3):
        return x
    return x.unflatten(0, (-1, 2)).square().sum((0, 1)).sqrt()[None] if len(x) % 2 == 0 else x.mean(0, keepdim=True)


def _picture(unit: Tensor, mode: str = "") -> PIL.Image.Image:
    """[C,H,W] in [0,1] -> HEIGHT pixels high; enlarged by whole pixels first so that none is invented."""
    unit = unit.clamp(0, 1).nan_to_num(0)
    width = max(round(HEIGHT * min(max(unit.shape[-1] / unit.shape[-2], 0.25), 2)), 1)
    mode = mode or ("nearest" if unit.shape[-2] <= HEIGHT else "area")
    pixels = functional.interpolate(unit[None], (HEIGHT, width), mode=mode)[0]
    array = (pixels * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return PIL.Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array).convert("RGB")


def _ceiling(values: Tensor) -> float:
    """The maximum, rounded up to two digits, so that the scale's number is short."""
    top = float(values.max())
    if top <= 0:
        return 1.0
    digit = 10 ** (math.floor(math.log10(top)) - 1)
    return math.ceil(top / digit) * digit
