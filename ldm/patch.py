"""Priors whose network sees patches with their position (PaDIS, Hu et al. 2024), as denoisers of whole images.

An N x N image is padded with black (-1) by M on every side; a partition of k+1 tiles of P pixels per axis, shifted by
an offset in 0..M, covers it exactly once. k = floor(N/P), M = (k+1) P - N.
"""

from collections.abc import Sequence
from copy import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from data.files import Refusal
from data.ranges import BLACK
from data.seeding import Noise
from ldm import checks
from ldm.denoiser import Prior

CPU_PATCHES = (
    25  # in one network call: an image's, as published; a hundred at once cost half as much again
)


def padding(size: int, patch: int) -> int:
    """M = (floor(N/P) + 1) P - N, PaDIS section 3.1."""
    return (size // patch + 1) * patch - size


def positions(
    padded: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Tensor:
    """[2, R, R]: x then y coordinate, 2u/(R-1) - 1 over the padded image of width R."""
    line = torch.linspace(-1, 1, padded, dtype=dtype, device=device)
    return torch.stack([line.expand(padded, padded), line[:, None].expand(padded, padded)])


def cut(x: Tensor, rows: Tensor, columns: Tensor, patch: int) -> Tensor:
    """x [B,C,R,R], top-left corners rows, columns [B,n] -> patches [B*n,C,P,P]."""
    span = torch.arange(patch, device=x.device)
    r, c = rows[..., None] + span, columns[..., None] + span  # [B,n,P]
    image = torch.arange(len(x), device=x.device)[:, None, None, None]
    patches = x.permute(0, 2, 3, 1)[image, r[:, :, :, None], c[:, :, None, :]]  # [B,n,P,P,C]
    return patches.flatten(0, 1).permute(0, 3, 1, 2).contiguous()


def cut_padded(x: Tensor, rows: Tensor, columns: Tensor, patch: int, margin: int) -> Tensor:
    """`cut` of x [B,C,N,N] padded with black by `margin`, corners in the padded frame, without building the padded image."""
    span = torch.arange(patch, device=x.device) - margin
    r, c = (
        rows[..., None] + span,
        columns[..., None] + span,
    )  # [B,n,P], where 0 is the image's first pixel
    inside = ((r >= 0) & (r < x.shape[-2]))[..., :, None] & ((c >= 0) & (c < x.shape[-1]))[
        ..., None, :
    ]
    image = torch.arange(len(x), device=x.device)[:, None, None, None]
    r, c = r.clamp(0, x.shape[-2] - 1), c.clamp(0, x.shape[-1] - 1)
    patches = x.permute(0, 2, 3, 1)[image, r[:, :, :, None], c[:, :, None, :]]
    return (
        torch.where(inside[..., None], patches, BLACK)
        .flatten(0, 1)
        .permute(0, 3, 1, 2)
        .contiguous()
    )


def paste(patches: Tensor, rows: Tensor, columns: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of `cut`, summed where patches overlap, and how many covered each pixel [B,1,R,R]."""
    b, channels, width, patch = len(like), like.shape[1], like.shape[-1], patches.shape[-1]
    span = torch.arange(patch, device=like.device)
    flat = (
        (rows[..., None, None] + span[:, None]) * width + columns[..., None, None] + span
    )  # [B,n,P,P]
    flat = flat.reshape(b, 1, -1)
    values = (
        patches.reshape(b, -1, channels, patch * patch).transpose(1, 2).reshape(b, channels, -1)
    )
    total = torch.zeros(b, channels, width * width, dtype=patches.dtype, device=like.device)
    total = total.scatter_add(2, flat.expand(-1, channels, -1), values)
    count = torch.zeros(b, 1, width * width, dtype=patches.dtype, device=like.device)
    count = count.scatter_add(2, flat, torch.ones_like(flat, dtype=patches.dtype))
    return total.reshape(b, channels, width, width), count.reshape(b, 1, width, width)


class PatchPrior(Prior):
    """PaDIS: one partition per evaluation at a random offset (with noise), or the mean over `partitions` of them.

    denoiser: called as denoiser(patches, sigma, label, position). size: N. patch: P. pad: M as trained; a network is
    only valid for the pad it was trained with, because positions span the padded image.
    patch_batch: patches per network call; None: all of them at once, on a CPU CPU_PATCHES.
    """

    patched = True

    def __init__(
        self,
        denoiser: nn.Module,
        channels: int,
        size: int,
        patch: int,
        pad: int | None = None,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        partitions: int = 1,
        patch_batch: int | None = None,
        label: int | None = None,
        variances: Sequence[Sequence[float]] = (),
    ):
        checks.counts(size=size, patch=patch, partitions=partitions, patch_batch=patch_batch)
        self.size, self.patch = size, patch
        self.margin = padding(size, patch) if pad is None else pad
        if self.margin < padding(size, patch):
            raise Refusal(
                f"pad {self.margin} is too small for N={size}, P={patch}: needs at least {padding(size, patch)}"
            )
        padded = size + 2 * self.margin
        super().__init__(
            denoiser, (channels, padded, padded), sigma_min, sigma_max, label, variances
        )
        self.partitions, self.patch_batch = partitions, patch_batch

    def stretched(self, size: int) -> "PatchPrior":
        """The same patches on images of `size` pixels, their places counted over the larger square; the network is shared."""
        other = copy(self)
        other.size, other.margin = size, max(padding(size, self.patch), self.margin)
        padded = size + 2 * other.margin
        other.shape = (self.shape[0], padded, padded)
        return other

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (1 if self.gray else self.shape[0], self.size, self.size)

    def crop(self, state: Tensor) -> Tensor:
        """Padded state -> its central N x N."""
        m, n = self.margin, self.size
        return state[..., m : m + n, m : m + n]

    def pad(self, core: Tensor, value: float = BLACK) -> Tensor:
        """N x N -> padded; black by default."""
        return functional.pad(core, [self.margin] * 4, value=value)

    def to_image(self, state: Tensor) -> Tensor:
        return super().to_image(self.crop(state))

    def to_state(self, image: Tensor) -> Tensor:
        return self.pad(super().to_state(image))

    def lift(self, image: Tensor) -> Tensor:
        return self.pad(super().lift(image), 0.0)

    def denoise(self, x: Tensor, sigma: Tensor, noise: Noise | None = None) -> Tensor:
        """The assembled E[x0 | x] on the padded square; exactly black outside the image."""
        checks.state(x, self.shape, "patch", placed=self.kind == "pixel")
        d = torch.zeros_like(x)
        for rows, columns in self.layouts(len(x), noise):
            d = (
                d
                + self.assemble(x, sigma, rows.to(x.device), columns.to(x.device)) / self.partitions
            )
        return self.pad(self.crop(d))

    def layouts(self, batch: int, noise: Noise | None) -> list[tuple[Tensor, Tensor]]:
        """Tile corners [B,n] of each partition: offsets drawn per image, or fixed low-discrepancy ones without noise."""
        if noise is None:
            index = torch.arange(1, self.partitions + 1, dtype=torch.float64)
            plastic = 1.324717957244746  # R2 sequence (Roberts 2018): generalised golden ratio in two dimensions
            unit = torch.stack(
                [(0.5 + index / plastic) % 1, (0.5 + index / plastic**2) % 1], 1
            ).expand(batch, -1, -1)
        else:
            unit = noise.uniform((batch, self.partitions, 2), torch.float64)
        slack = (
            self.shape[-1] - self.tiles * self.patch
        )  # offsets 0..slack keep every tile inside the padded square
        low = max(0, self.margin + self.size - self.tiles * self.patch)
        high = min(self.margin, slack)
        offsets = low + (unit * (high - low + 1)).long()  # [B,K,2]
        grid = torch.arange(self.tiles) * self.patch
        pairs = torch.cartesian_prod(grid, grid)  # [n,2]
        corners = offsets[:, :, None, :] + pairs
        return [(corners[:, k, :, 0], corners[:, k, :, 1]) for k in range(self.partitions)]

    @property
    def tiles(self) -> int:
        """k + 1 tiles per axis."""
        return self.size // self.patch + 1

    def assemble(self, x: Tensor, sigma: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Denoise the patches at these corners, `patch_batch` at a time, and put them back (mean where they overlap)."""
        n = rows.shape[1]
        patches = cut(x, rows, columns, self.patch)
        place = positions(x.shape[-1], x.dtype, x.device).expand(len(x), -1, -1, -1)
        place = cut(place, rows, columns, self.patch)
        level = sigma.repeat_interleave(n)
        label = self.labels(x)
        label = None if label is None else label.repeat_interleave(n)
        chunk = self.patch_batch or (CPU_PATCHES if x.device.type == "cpu" else len(patches))
        pieces = [
            self.denoiser(
                patches[i : i + chunk],
                level[i : i + chunk],
                None if label is None else label[i : i + chunk],
                place[i : i + chunk],
            )
            for i in range(0, len(patches), chunk)
        ]
        return self.combine(torch.cat(pieces), rows, columns, x)

    def combine(self, patches: Tensor, rows: Tensor, columns: Tensor, like: Tensor) -> Tensor:
        """Patches put back where they were cut: their mean where they overlap, black where there is none."""
        total, count = paste(patches, rows, columns, like)
        return torch.where(count > 0, total / count.clamp_min(1), torch.full_like(total, BLACK))


class FixedPatchPrior(PatchPrior):
    """PaDIS's baselines: the same overlapping patches at every evaluation, averaged or stitched (later ones win).

    overlap: pixels that neighbours share. At N = 256, P = 56, M = 24 the corners are 4, 52, ..., 244.
    """

    def __init__(
        self,
        *arguments: Any,
        overlap: int = 8,
        blend: Literal["average", "stitch"] = "average",
        **settings: Any,
    ):
        super().__init__(*arguments, **settings)
        step, width = self.patch - overlap, self.shape[-1]
        count = -(-(self.size - overlap) // max(step, 1))
        first = (width - count * step - overlap) // 2
        if not 0 <= overlap < self.patch or first < 0:
            raise Refusal(
                f"patches of {self.patch} that overlap by {overlap} do not fit the padded width {width}"
            )
        with torch.device(
            "cpu"
        ):  # even where the network is being built without memory (meta device)
            self.blend, self.starts = blend, first + step * torch.arange(count)

    def layouts(self, batch: int, noise: Noise | None) -> list[tuple[Tensor, Tensor]]:
        corners = torch.cartesian_prod(self.starts, self.starts).expand(batch, -1, -1)
        return [(corners[..., 0], corners[..., 1])] * self.partitions

    def combine(self, patches: Tensor, rows: Tensor, columns: Tensor, like: Tensor) -> Tensor:
        if self.blend == "average":
            return super().combine(patches, rows, columns, like)
        whole = torch.full_like(like, BLACK)
        tiles = patches.reshape(len(like), -1, *patches.shape[1:]).unbind(1)
        for tile, r, c in zip(tiles, rows[0].tolist(), columns[0].tolist()):
            whole[..., r : r + self.patch, c : c + self.patch] = tile
        return whole
