"""Where in the image the samples of a measurement lie: what writer, panels and the cheap answers place them by."""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, Self

import torch
from torch import Tensor

Pair = tuple[float, float]  # along the rows' axis (down), along the columns' axis (to the right)


class Grid(NamedTuple):
    """Sample [i,j] stands at pixel (offset[0] + i * spacing[0], offset[1] + j * spacing[1]) of the image.

    Pixels are counted from 0 at their centres: blocks of 4 x 4 pixels have offset 1.5 and spacing 4.
    """

    offset: Pair = (0.0, 0.0)
    spacing: Pair = (1.0, 1.0)

    @classmethod
    def square(cls, offset: float, spacing: float) -> Self:
        return cls((offset, offset), (spacing, spacing))

    def then(self, outer: "Grid") -> "Grid":
        """The grid of a measurement of this measurement."""
        (a, b), (s, t) = self.offset, self.spacing
        offset = a + s * outer.offset[0], b + t * outer.offset[1]
        return Grid(offset, (s * outer.spacing[0], t * outer.spacing[1]))

    def bicubic(self, y: Tensor, height: int, width: int) -> Tensor:
        """y [...,h,w] interpolated at the pixels of an image [...,height,width]; beyond the samples the outermost is repeated.

        Keys' kernel with a = -3/4, as `torch.nn.functional.interpolate` has it, which knows block centres alone.
        """
        rows, columns = (self._weights(axis, n, y) for axis, n in ((0, height), (1, width)))
        return rows @ y @ columns.T

    def nearest(self, y: Tensor, height: int, width: int) -> Tensor:
        """y [...,h,w] as an image [...,height,width] whose pixels are the nearest samples; 0 where none is within a spacing."""
        for axis, n in ((0, height), (1, width)):
            place = self.position(axis, n)
            index, last = (place + 0.5).floor(), y.shape[axis - 2] - 1
            near = (place > -1) & (place < last + 1)
            y = y.index_select(axis - 2, index.clamp(0, last).long())
            y = y * near.to(y).reshape(-1, *[1] * (1 - axis))
        return y

    def position(self, axis: int, pixels: int) -> Tensor:
        """Of each pixel along an axis, counted in samples."""
        return (torch.arange(pixels, dtype=torch.float64) - self.offset[axis]) / self.spacing[axis]

    def _weights(self, axis: int, pixels: int, y: Tensor) -> Tensor:
        whole = cubic_weights(self.offset[axis], self.spacing[axis], y.shape[axis - 2], pixels)
        return whole.to(y)


@lru_cache(maxsize=32)
def cubic_weights(offset: float, spacing: float, samples: int, pixels: int) -> Tensor:
    """What each of `samples` gives to each of `pixels`, [pixels,samples], rows summing to one."""
    place = (torch.arange(pixels, dtype=torch.float64) - offset) / spacing
    tap = place.floor()[:, None] + torch.arange(-1, 3)  # [pixels,4]
    d = (place[:, None] - tap).abs()
    a = -0.75
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * (d**3 - 5 * d**2 + 8 * d - 4)
    weight = torch.where(d <= 1, near, far) * (d < 2)
    index = tap.long().clamp(0, samples - 1)
    return torch.zeros(pixels, samples, dtype=torch.float64).scatter_add_(1, index, weight)


def found(forward: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Grid | None:
    """The grid of a linear map of images [C,H,W], from what it makes of the pixels' own coordinates; None if it has none.

    A sample lies at the mean place of what it sees. Only the middle half of y is asked, which no border reaches.
    """
    c, h, w = shape
    down = torch.arange(h, dtype=torch.float32)[:, None].expand(h, w)
    right = torch.arange(w, dtype=torch.float32).expand(h, w)
    seen = [forward(image.expand(1, c, h, w)) for image in (torch.ones(h, w), down, right)]
    if seen[0].ndim != 4 or min(seen[0].shape[-2:]) < 4:
        return None
    rows, columns = (slice(n // 4, n - n // 4) for n in seen[0].shape[-2:])
    weight, *places = (y[0, 0, rows, columns].double() for y in seen)
    if not bool((weight > 0.01 * weight.abs().max()).all()):
        return None
    offset, spacing = [], []
    for axis, place in enumerate(places):
        line = (place / weight).mean(1 - axis)
        step = float((line[-1] - line[0]) / (len(line) - 1))
        straight = line[0] + step * torch.arange(len(line))
        if step <= 0 or float((place / weight - straight.unsqueeze(1 - axis)).abs().max()) > 0.01:
            return None
        first = (rows, columns)[axis].start
        spacing.append(round(step, 4))
        offset.append(round(float(line[0]) - first * step, 3) + 0.0)
    return Grid((offset[0], offset[1]), (spacing[0], spacing[1]))
