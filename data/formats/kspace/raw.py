"""The one value every k-space file becomes, and where its pixels lie in the patient.

Rows are the readout, columns the phase encoding; frequency 0 is at [H//2, W//2], and the transform that images are made of
k-space by is exp(+2 pi i k x), as BART's, fastMRI's and ISMRMRD's is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from data.files import Refusal
from data.formats.image import Affine
from data.formats.volume import as_affine

WHOLE = (
    0.02  # of the points that rows and columns span may be exactly 0 by chance (integers do that)
)
ROUNDING = 0.01  # of unit vectors
FARTHEST = 1e5  # mm
RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # from DICOM's left and back


@dataclass(frozen=True, eq=False)
class Raw:
    """One slice of k-space.

    kspace: complex64 [coils,H,W], 0 where not measured. mask: bool [H,W]. kept: rows and columns of the picture in the middle
    of the field of view that k-space spans; less than H and W where the scan was oversampled.
    """

    kspace: Tensor
    mask: Tensor
    kept: tuple[int, int]
    spacing: tuple[float, float] | None = None  # mm from row to row, from column to column
    affine: Affine | None = (
        None  # 4x4: index (row, column, slice) of the kept picture -> mm, RAS; of the whole volume
    )
    noise: Tensor | None = None  # complex64 [coils,n]: samples of noise alone
    calibration: Tensor | None = (
        None  # complex64 [coils,H,W]: a calibration scan of its own, on the same grid
    )
    trajectory: Tensor | None = (
        None  # float64 [2,H,W]: where samples lie, in cycles per field of view; H shots of W samples then
    )
    matrix: tuple[int, int] | None = None  # rows and columns of the image, where k-space has others
    index: int = 0
    count: int = 1
    shape: tuple[
        int, ...
    ] = ()  # of the volume that the pictures make: rows, columns, slices[, repetitions]
    series: str | None = None
    notes: tuple[str, ...] = ()


def checked(raw: Raw, where: str) -> Raw:
    """The slice as it may be used. Raises Refusal for samples that are no numbers, and for nothing but zeros."""
    bad = raw.kspace.numel() - int(torch.isfinite(torch.view_as_real(raw.kspace)).all(-1).sum())
    if bad:
        raise Refusal(
            f"{where}: {bad} of {raw.kspace.numel()} samples are NaN or infinite; only finite samples are allowed"
        )
    if not bool(raw.mask.any()):
        raise Refusal(f"{where}: every sample is 0; measured k-space is allowed")
    dead = [i for i, coil in enumerate(raw.kspace) if not bool(coil.any())]
    if dead:
        raise Refusal(
            f"{where}: coils {', '.join(map(str, dead))} of {len(raw.kspace)} measured nothing but 0; leave them out"
        )
    noise = raw.noise
    if noise is not None and len(noise) != len(raw.kspace):
        raise Refusal(
            f"{where}: {len(raw.kspace)} coils, but the noise scan has {len(noise)}; the same coils are allowed"
        )
    if noise is not None and not bool(torch.isfinite(torch.view_as_real(noise)).all()):
        raise Refusal(
            f"{where}: its noise scan holds samples that are NaN or infinite; only finite ones are allowed"
        )
    whole = raw.matrix or tuple(raw.kspace.shape[-2:])
    if not all(1 <= k <= n for k, n in zip(raw.kept, whole)):
        raise Refusal(
            f"{where}: a picture of {raw.kept} in k-space of {whole}; 1 pixel to that is allowed"
        )
    if raw.trajectory is not None:
        silent = (raw.kspace == 0).all(2).all(0)
        if bool(silent.any()):
            raise Refusal(
                f"{where}: {int(silent.sum())} of {len(silent)} shots are all 0 (the first is {int(silent.int().argmax())})"
            )
    return replace(raw, kspace=torch.where(raw.mask, raw.kspace, 0))


def sampled(kspace: np.ndarray) -> np.ndarray:
    """bool [H,W], where k-space [coils,H,W] was measured: what is not 0 in every coil; of whole lines all of it."""
    mask = (kspace != 0).any(0)
    whole = mask.any(1)[:, None] & mask.any(0)
    return whole if (whole & ~mask).sum() <= WHOLE * whole.sum() else mask


def agreed(
    found: np.ndarray, columns: np.ndarray, where: str, outside: np.ndarray | None = None
) -> np.ndarray:
    """The mask bool [H,W] of a file that tells its columns [W], which must agree with the zeros of its k-space.

    found: where k-space is not 0. outside: columns that the matrix has but the scan never had (padding).
    """
    told = columns.astype(bool) & ~(np.zeros(len(columns), bool) if outside is None else outside)
    lines = found.any(0)
    empty, extra = np.flatnonzero(told & ~lines), np.flatnonzero(~told & lines)
    if len(empty) or len(extra):
        said = (
            [f"{len(empty)} columns are all 0 that it calls measured (first {empty[0]})"]
            if len(empty)
            else []
        )
        said += (
            [f"{len(extra)} are not 0 that it does not (first {extra[0]})"] if len(extra) else []
        )
        raise Refusal(
            f"{where}: its mask disagrees with its k-space: {', '.join(said)}; a mask of this scan is allowed"
        )
    return found & told


def place(
    where: str,
    kept: Sequence[int],
    spacing: Sequence[float],
    centre: Sequence[float],
    rows: Sequence[float],
    columns: Sequence[float],
    step: Sequence[float],
) -> Affine | None:
    """Index (row, column, slice) -> mm, RAS; None for directions of 0, which files that do not know them have.

    centre: of the first slice's picture, where index [kept//2] lies; rows, columns: unit vectors along which the row and the
    column index grow; step: from slice to slice. All in mm or unit vectors of DICOM's left, back, head. Raises Refusal for
    directions that are none, and for lengths that no scanner has.
    """
    down, across = np.array(rows, float), np.array(columns, float)
    if not (down.any() or across.any()):
        return None
    turned = down @ down - 1, across @ across - 1, down @ across
    if not np.abs(turned).max() < ROUNDING:  # NaN is none either
        raise Refusal(
            f"{where}: rows along {[*map(float, rows)]}, columns along {[*map(float, columns)]};"
            " unit vectors at right angles are allowed"
        )
    far = max(np.abs(centre).max(), np.abs(step).max(), *spacing)
    if not (far < FARTHEST and min(spacing) > 1 / FARTHEST):
        raise Refusal(
            f"{where}: pixels of {spacing[0]:g} × {spacing[1]:g} mm at {[*map(float, centre)]} mm;"
            f" {1 / FARTHEST:g} to {FARTHEST:g} mm are allowed"
        )
    down = down / np.linalg.norm(down) * spacing[0]
    across = across / np.linalg.norm(across) * spacing[1]
    matrix = np.eye(4)
    corner = np.array(centre, float) - down * (kept[0] // 2) - across * (kept[1] // 2)
    matrix[:3] = np.stack([down, across, np.array(step, float), corner], 1)
    return as_affine(RAS @ matrix)
