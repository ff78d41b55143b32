"""Randomness belongs to images: seed = digest(run_seed, image_id, sample_index, purpose).

One generator per image, drawn on the CPU and moved, so that order, batch size, workers, ranks, restarts and
the device do not change an image's result. The global generators are never touched.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from data import files
from data.files import Refusal

Purpose = Literal["mask", "kernel", "noise", "solver", "offset", "augment", "mean"]
PURPOSES = ("mask", "kernel", "noise", "solver", "offset", "augment", "mean")


def digest(run_seed: int, image_id: str, sample_index: int, purpose: str) -> int:
    """A 63-bit seed; the same on every machine and in every Python."""
    return int(files.digest(str(run_seed), image_id, str(sample_index), purpose)[:16], 16) >> 1


class Noise:
    """One random stream per image of a batch.

    ids: image ids, one per row of what will be drawn. An id may be repeated with another sample index.
    samples: sample index per id (default: all 0).
    """

    def __init__(
        self,
        ids: Sequence[str],
        purpose: Purpose,
        run_seed: int = 0,
        samples: Sequence[int] | None = None,
    ):
        if purpose not in PURPOSES:
            raise Refusal(f"purpose {purpose!r} is not one of {', '.join(PURPOSES)}")
        self.ids = tuple(ids)
        self.purpose: Purpose = purpose
        self.run_seed = run_seed
        self.samples = tuple(samples) if samples is not None else (0,) * len(self.ids)
        if len(self.samples) != len(self.ids):
            raise Refusal(f"{len(self.ids)} ids but {len(self.samples)} sample indices")
        self.generators = [
            torch.Generator().manual_seed(digest(run_seed, image_id, sample, purpose))
            for image_id, sample in zip(self.ids, self.samples)
        ]

    def __len__(self) -> int:
        return len(self.ids)

    def of(self, purpose: Purpose) -> "Noise":
        """A fresh stream of the same images for another purpose."""
        return Noise(self.ids, purpose, self.run_seed, self.samples)

    def normal(
        self,
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """N(0, 1) of the given shape; shape[0] == len(ids). Drawn in float64, so float32 and float64 runs agree."""
        return self._draw(torch.randn, shape).to(device=device, dtype=dtype)

    def uniform(
        self,
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """U[0, 1) of the given shape; shape[0] == len(ids)."""
        return self._draw(torch.rand, shape).to(device=device, dtype=dtype)

    def like(self, x: Tensor) -> Tensor:
        """N(0, 1) with x's shape, dtype and device."""
        return self.normal(x.shape, x.dtype, x.device)

    def _draw(self, source, shape: Sequence[int]) -> Tensor:
        if shape[0] != len(self.ids):
            raise Refusal(
                f"asked for {shape[0]} rows of noise but there are {len(self.ids)} images"
            )
        return torch.stack(
            [source(tuple(shape[1:]), generator=g, dtype=torch.float64) for g in self.generators]
        )


class Tied(Noise):
    """The streams of another noise, whose N(0, 1) pass through a function before they are used: volumes tie their slices'."""

    def __init__(self, noise: Noise, tie: Callable[[Tensor], Tensor]):
        vars(self).update(vars(noise))
        self.noise, self.tie = noise, tie

    def like(self, x: Tensor) -> Tensor:
        return self.tie(super().like(x))

    def _draw(self, source, shape: Sequence[int]) -> Tensor:
        return self.noise._draw(source, shape)
