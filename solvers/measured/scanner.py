"""A task whose operator is not in its settings but in the file that a scanner wrote."""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from data import formats
from data.files import Refusal
from data.formats import Image, Meta
from data.ranges import Intensity
from solvers.operators.base import Operator, Shape
from solvers.problem import Likelihood, Problem

OUTPUTS = ("nifti", "dicom")


class Prepared(NamedTuple):
    """One slice of a file. `pose` is asked when its turn comes: it may take seconds."""

    source: Image  # black, in the form that the result is written in
    intensity: Intensity  # stored units of the result that are black and white
    pose: Callable[[], Problem]
    kept: tuple[int, int]  # rows and columns of the picture, in the middle of the restored image


class Scanner(Operator):
    """Reads files of measured data; `operator.params` say how they are prepared. It measures nothing itself."""

    unit_range = True
    suffixes: ClassVar[tuple[str, ...]] = ()
    asks: ClassVar[str] = ""  # what to say to whoever gives none of them
    output: ClassVar[str] = OUTPUTS[0]  # of results, where none is asked for

    def known(self, path: Path) -> bool:
        """Whether a file of a folder is one of measured data."""
        return path.name.lower().endswith(self.suffixes)

    def count(self, path: Path) -> int:
        """Images of a file."""
        raise NotImplementedError

    def prepare(
        self, path: Path, index: int, image_id: str, likelihood: Likelihood, output: str
    ) -> Prepared:
        """output: one of OUTPUTS. Raises Refusal in one line for what cannot be restored."""
        raise NotImplementedError

    def draw(self, shape: Shape, noise: object) -> Operator:  # type: ignore[override]
        raise Refusal(
            f"{type(self).__name__} reads what a scanner wrote; --measurements FILE is allowed"
        )

    def shape_out(self, shape: Shape) -> Shape:
        raise Refusal(
            f"{type(self).__name__} reads what a scanner wrote; --measurements FILE is allowed"
        )


def centred(image: Tensor, kept: tuple[int, int]) -> Tensor:
    """The middle of [...,H,W]: index [H//2, W//2] becomes [kept[0]//2, kept[1]//2]."""
    (h, w), (rows, columns) = image.shape[-2:], kept
    top, left = h // 2 - rows // 2, w // 2 - columns // 2
    return image[..., top : top + rows, left : left + columns]


def blank(shape: tuple[int, int], meta: Meta) -> Image:
    """A black image of a result, turned as its file's images are looked at."""
    return formats.upright(Image(torch.zeros(1, *shape), meta))
