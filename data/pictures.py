"""Pictures to look at: tiles on known grey scales, each with its title and with the values of black and white beside it."""

import math
from collections.abc import Sequence

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import torch
from torch import Tensor
from torch.nn import functional

HEIGHT = 256  # pixels of a picture in its tile; small ones are enlarged by pixel repetition
BAR, MARGIN, TITLE, AXIS = 10, 8, 22, 18
MISSING = (0, 104, 116)  # the colour of what was not measured
FRAME = (245, 154, 35)  # of an enlarged region
ZOOM = 3  # times that it is enlarged
Box = tuple[int, int, int]  # top, left and side of a region, in pixels of the image


def beside(pictures: Sequence[PIL.Image.Image]) -> PIL.Image.Image:
    """Pictures of one height in a row."""
    sheet = PIL.Image.new(
        "RGB", (sum(picture.width for picture in pictures), pictures[0].height), "white"
    )
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width
    return sheet


def tile(
    title: str,
    values: Tensor,
    low: float,
    high: float,
    height: int = HEIGHT,
    mode: str = "",
    axes: tuple[str, str] | None = None,
    inset: Box | None = None,
) -> PIL.Image.Image:
    """One picture [C,H,W] with its title, and a bar that says which value is black and which is white; NaN was not measured.

    mode: of interpolation; by default pixels are repeated where there are fewer than the height, else averaged. axes: what
    runs down and across, written beside the picture. inset: a region that is shown enlarged in a corner. The place of the
    picture is in the `info` of what is returned: "box" (left, top, right, bottom).
    """
    unit, margin = (channels(values) - low) / (high - low), AXIS if axes else 0
    picture = _picture(unit, height - margin, mode)
    if inset:
        _enlarge(picture, unit, inset)
    if axes:
        picture = _beside_axes(picture, axes)
    font = PIL.ImageFont.load_default(13)
    numbers = [f"{high:.3g}", f"{low:.3g}"]
    room = BAR + 4 + max(math.ceil(font.getlength(n)) for n in numbers)
    out = PIL.Image.new(
        "RGB", (picture.width + room + 3 * MARGIN, height + TITLE + MARGIN), "white"
    )
    draw = PIL.ImageDraw.Draw(out)
    while font.getlength(title) > out.width - 2 * MARGIN and len(title) > 4:
        title = title[:-2].rstrip(" ….") + "…"
    draw.text((MARGIN, 4), title, fill="black", font=font)
    out.paste(picture, (MARGIN, TITLE))
    left = picture.width + 2 * MARGIN
    ramp = np.linspace(255, 0, height).round().astype(np.uint8)[:, None].repeat(BAR, 1)
    out.paste(PIL.Image.fromarray(ramp), (left, TITLE))
    draw.rectangle((left, TITLE, left + BAR - 1, TITLE + height - 1), outline="gray")
    draw.text((left + BAR + 4, TITLE), numbers[0], fill="black", font=font)
    draw.text((left + BAR + 4, TITLE + height - 16), numbers[1], fill="black", font=font)
    out.info["box"] = (MARGIN + margin, TITLE, MARGIN + picture.width, TITLE + height - margin)
    return out


def _enlarge(picture: PIL.Image.Image, unit: Tensor, box: Box) -> None:
    """A region of an image, enlarged, in the corner of its picture that is farthest from it."""
    (top, left, side), scale = box, picture.height / unit.shape[-2]
    detail = _picture(
        unit[..., top : top + side, left : left + side], round(ZOOM * side * scale), "nearest"
    )
    below, right = 2 * top + side < unit.shape[-2], 2 * left + side < unit.shape[-1]
    place = (right * (picture.width - detail.width), below * (picture.height - detail.height))
    picture.paste(detail, place)
    draw = PIL.ImageDraw.Draw(picture)
    for x, y, w in ((left * scale, top * scale, side * scale), (*place, detail.width)):
        draw.rectangle((x, y, x + w - 1, y + w - 1), outline=FRAME)


def _beside_axes(picture: PIL.Image.Image, axes: tuple[str, str]) -> PIL.Image.Image:
    """A picture with what runs down to its left and what runs across below."""
    out = PIL.Image.new("RGB", (picture.width + AXIS, picture.height + AXIS), "white")
    out.paste(picture, (AXIS, 0))
    font = PIL.ImageFont.load_default(12)
    PIL.ImageDraw.Draw(out).text((AXIS, picture.height + 2), axes[1], fill="black", font=font)
    words = PIL.Image.new("RGB", (picture.height, AXIS), "white")
    PIL.ImageDraw.Draw(words).text((0, 0), axes[0], fill="black", font=font)
    out.paste(words.rotate(90, expand=True), (0, 0))
    return out


def channels(x: Tensor) -> Tensor:
    """[C,H,W] as one gray or three colour channels; complex pairs (real, imaginary) as their magnitude."""
    x = x.float()
    if len(x) in (1, 3):
        return x
    return (
        x.unflatten(0, (-1, 2)).square().sum((0, 1)).sqrt()[None]
        if len(x) % 2 == 0
        else x.mean(0, keepdim=True)
    )


def _picture(unit: Tensor, height: int, mode: str) -> PIL.Image.Image:
    """[C,H,W] in [0,1] -> height pixels high; enlarged by whole pixels first so that none is invented."""
    if bool((missing := unit.isnan()).any()):
        colour = torch.tensor(MISSING, dtype=unit.dtype)[:, None, None] / 255
        unit = torch.where(missing.any(0), colour, unit)
    unit = unit.clamp(0, 1)
    width = max(round(height * min(max(unit.shape[-1] / unit.shape[-2], 0.25), 2)), 1)
    mode = mode or ("nearest" if unit.shape[-2] <= height else "area")
    pixels = functional.interpolate(unit[None], (height, width), mode=mode)[0]
    array = (pixels * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return PIL.Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array).convert("RGB")


def ceiling(values: Tensor) -> float:
    """The maximum, rounded up to two digits, so that the scale's number is short."""
    top = float(values.max())
    if top <= 0:
        return 1.0
    digit = 10 ** (math.floor(math.log10(top)) - 1)
    return math.ceil(top / digit) * digit
