"""Images of a manifest as tensors in the model range, one sample per row.

Which stored values become -1 and +1 is decided in `data.contracts`, once for a whole volume or series.
Pictures are never cut, scaled or padded on the way unless `size` or `crop` say so.
"""

import signal
import warnings
from functools import cache
from pathlib import Path
from typing import TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as transforms

from data import formats, manifest
from data.contracts import Contracts
from data.files import Refusal
from data.manifest import Row
from data.ranges import BLACK, Intensity
from data.rows import Rows
from data.seeding import Noise
from data.window import window as parsed

LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in Pillow's "L"


class Sample(TypedDict):
    """One image of a batch; the loader stacks them."""

    image: Tensor  # [C, H, W] float32 in [-1, 1]
    image_id: str
    label: int  # -1 if none
    index: int  # row of the manifest, from 0


PLAIN = Contracts()  # nothing asked for, no prior known


def load(
    row: Row, channels: int, contracts: Contracts = PLAIN
) -> tuple[Tensor, formats.Image, Intensity]:
    """A row's image in the model range, as it was read, and the contract between the two, to be inverted on the way out.

    Slices of volumes are upright, as they are looked at; writing undoes it.
    channels: 3 replicates a gray image, 1 takes the luminance of a coloured one, with a warning. Raises Refusal in one line.
    """
    image = formats.upright(formats.read(row.path, row.slice))
    intensity = contracts.of(row, image)
    return (
        blacken(intensity.to_model(with_channels(image.pixels, channels, row.path)), image),
        image,
        intensity,
    )


def blacken(pixels: Tensor, image: formats.Image) -> Tensor:
    """pixels [C, H, W] in the model range with the file's padding black, whatever number stands for it there."""
    padded = image.meta.padded
    return pixels if padded is None else pixels.masked_fill(~padded.isnan(), BLACK)


def with_channels(pixels: Tensor, channels: int, path: str) -> Tensor:
    """pixels [C,H,W] with another number of channels: gray ones replicated, colours as their luminance. path: for messages."""
    held = len(pixels)
    if held == channels:
        return pixels
    if (held, channels) == (1, 3):
        return pixels.expand(3, -1, -1).contiguous()
    if (held, channels) == (3, 1):
        _say_luminance()
        return torch.einsum("c,chw->hw", pixels.new_tensor(LUMINANCE), pixels)[None]
    raise Refusal(
        f"{path}: has {held} channels where {channels} are wanted; only 1 to 3 and 3 to 1 are converted"
    )


@cache
def _say_luminance() -> None:
    """Once per process, whatever others do to the filters of warnings."""
    warnings.warn(
        "colour images are reduced to their luminance, because the prior has one channel",
        stacklevel=4,
    )


def deaf(worker: int) -> None:
    """A loader's worker leaves a scheduler's word to stop to the process that trains, which ends it when it has saved."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def checked(size: int | None, crop: int | None, zoom: float, window: str | None) -> Contracts:
    """The contracts that `window` means. Raises Refusal for what no picture can be looked at with."""
    for name, sides in (("size", size), ("crop", crop)):
        if sides is not None and sides < 1:
            raise Refusal(f"{name} {sides} must be at least 1, or null")
    if not zoom >= 1 or (zoom > 1 and not crop):
        raise Refusal(f"zoom {zoom} must be at least 1, and needs a crop that is scaled down")
    return Contracts(parsed(window)) if window else PLAIN


class ManifestDataset(Dataset[Sample]):
    """The rows of a manifest. `dataset[i]` is row i; `dataset[i, view]` is row i as training sees it: an epoch
    is a view, and so is each further time within one.

    channels: of the prior (1 or 3; 2 for complex images).
    size: every picture is scaled so that its shorter side has this many pixels, and its centre square is cut; None: left alone.
    augment: mirrored, and half of the time turned by up to 7 degrees, scaled by up to 10 % and shifted by up to 5 %, as drawn
        from (seed, image id, view), whatever the order, the workers or a restart.
    crop: a random square of this many pixels out of the picture, drawn likewise.
    zoom: half of the crops are of up to `zoom` times as many rows, and of up to `zoom` times as many columns, each drawn,
        scaled down to `crop` pixels, so that a prior learns of coarser pixels too, and of oblong ones. 1: none.
    window: which stored values become -1 and +1, instead of what the rows say (`data.window.window`: LOW:HIGH, pLOW:pHIGH,
        header or full).
    memory: read every file now and keep the pictures as 16-bit numbers, if they seem to fit in this many bytes. Exact for 8-
        and 16-bit files whose window is their depth; otherwise rounded to 1/65535 of the window.
    """

    def __init__(
        self,
        path: str | Path,
        channels: int = 1,
        size: int | None = None,
        augment: bool = False,
        crop: int | None = None,
        seed: int = 0,
        memory: int = 0,
        window: str | None = None,
        zoom: float = 1.0,
    ):
        self.contracts = checked(size, crop, zoom, window)
        self.rows = Rows(manifest.read(path))
        if not self.rows:
            raise Refusal(f"{path}: the manifest has no rows")
        self.channels, self.size, self.augment, self.crop, self.seed = (
            channels,
            size,
            augment,
            crop,
            seed,
        )
        self.zoom = zoom
        self.cached: list[Tensor] = []
        if crop:  # what the first picture contradicts need not wait for its turn
            self._check_crop(self._read(0), self.rows[0])
        if memory and 2 * self._read(0).numel() * len(self) <= memory:
            self.cached = [
                ((self._read(i) + 1) * 32767.5).round().to(torch.uint16) for i in range(len(self))
            ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        index, view = key if isinstance(key, tuple) else (key, 0)
        row = self.rows[index]
        image = self.cached[index].float() / 32767.5 - 1 if self.cached else self._read(index)
        if self.augment or self.crop:
            drawn = Noise([row.image_id], "augment", self.seed, [view])
            u = drawn.uniform([1, 8])[0].tolist()
            box = self._box(image, drawn.uniform([1, 3])[0].tolist())
            image = self._vary(image, u, box, row)
        return {"image": image, "image_id": row.image_id, "label": row.label, "index": index}

    def _read(self, index: int) -> Tensor:
        image, _, _ = load(self.rows[index], self.channels, self.contracts)
        return image if self.size is None else fit(image, self.size)

    def _box(self, image: Tensor, u: list[float]) -> tuple[int, int]:
        """Rows and columns that are seen at once. u: whether to zoom, and how far each way."""
        if not self.crop:
            height, width = image.shape[-2:]
            return height, width
        if self.zoom == 1 or u[0] < 0.5:
            return self.crop, self.crop
        seen = (round(self.crop * self.zoom**v) for v in u[1:])
        rows, columns = (min(n, size) for n, size in zip(seen, image.shape[-2:]))
        return rows, columns

    def _check_crop(self, image: Tensor, row: Row) -> torch.Size:
        """Rows and columns of the picture. Raises Refusal if the crop has more."""
        height, width = image.shape[-2:]
        if self.crop and self.crop > min(height, width):
            raise Refusal(f"{row.path}: is {height} x {width}, smaller than crop {self.crop}")
        return image.shape[-2:]

    def _vary(self, image: Tensor, u: list[float], box: tuple[int, int], row: Row) -> Tensor:
        """u: eight numbers in [0, 1): mirror, whether to warp, turn, scale, shifts; then where the box lies."""
        height, width = self._check_crop(image, row)
        top, left = (int(v * (n - c + 1)) for v, n, c in zip(u[6:], (height, width), box))
        if self.augment and u[0] < 0.5:
            image = image.flip(-1)
        if self.augment and u[1] < 0.5:
            image = _warp(
                image,
                (2 * u[2] - 1) * 7,
                1 + (2 * u[3] - 1) * 0.1,
                (u[4] - 0.5) * 0.1,
                (u[5] - 0.5) * 0.1,
                (top, left, *box),
            )
        else:
            image = image[..., top : top + box[0], left : left + box[1]].contiguous()
        return image if not self.crop else scaled(image, (self.crop, self.crop))


def fit(image: Tensor, size: int) -> Tensor:
    """The centre square of the picture, its shorter side scaled to `size` (bicubic, antialiased), within [-1, 1]."""
    if image.shape[-2:] == (size, size):
        return image
    height, width = image.shape[-2:]
    short = min(height, width)
    shape = (int(size * height / short), int(size * width / short))
    return transforms.center_crop(scaled(image, shape), [size, size])


def scaled(image: Tensor, shape: tuple[int, int]) -> Tensor:
    """The picture in so many rows and columns (bicubic, antialiased), within [-1, 1]."""
    if image.shape[-2:] == shape:
        return image
    bicubic = transforms.InterpolationMode.BICUBIC
    return transforms.resize(image, list(shape), bicubic, antialias=True).clamp(-1, 1)


def _warp(
    image: Tensor,
    degrees: float,
    scale: float,
    down: float,
    right: float,
    box: tuple[int, int, int, int],
) -> Tensor:
    """The part `box` of the picture turned and scaled about its centre, shifted by parts of its size; bicubic, mirrored outside.

    torchvision's affine is bilinear on tensors, which would teach a prior that images are blurred.
    """
    height, width = image.shape[-2:]
    top, left, rows, columns = box
    y = torch.arange(top, top + rows) + 0.5 - height / 2 - down * height
    x = torch.arange(left, left + columns) + 0.5 - width / 2 - right * width
    angle = torch.tensor(degrees).deg2rad()
    cos, sin = angle.cos() / scale, angle.sin() / scale
    source = torch.stack(
        [(cos * x + sin * y[:, None]) * 2 / width, (cos * y[:, None] - sin * x) * 2 / height], -1
    )
    warped = F.grid_sample(
        image[None], source[None], mode="bicubic", padding_mode="reflection", align_corners=False
    )
    return warped[0].clamp(-1, 1)
