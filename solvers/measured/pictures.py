"""The picture that a slice of k-space becomes: the form, place and units it is written in."""

from dataclasses import replace

import torch

from data.formats import Meta
from data.formats.image import digest
from data.formats.kspace import Raw
from data.formats.kspace.raw import place

HEADROOM = 4.0  # times white that a DICOM's 15 bits hold


def meta_of(raw: Raw, output: str, white: float) -> Meta:
    """Of a result: NIfTI with all slices in one file, or one DICOM file a slice; in the units of the scanner's file.

    A NIfTI of unknown place lies as a scan of 1 mm at the default directions: without any it would be read as an array of
    another order, turned.
    """
    meta = Meta(
        "nifti",
        "float32",
        window=(0, white),
        index=raw.index,
        count=raw.count,
        shape=raw.shape,
        spacing=raw.spacing,
        affine=raw.affine,
        modality="MR",
        series=raw.series,
    )
    if output == "nifti":
        unplaced = place("", raw.kept, (1, 1), (0, 0, 0), (0, 1, 0), (1, 0, 0), (0, 0, 1))
        return replace(meta, affine=raw.affine or unplaced)
    affine, position = raw.affine, float(raw.index)
    if affine is not None:
        matrix = torch.tensor(affine, dtype=torch.float64)
        matrix[:3, 3] += matrix[:3, 2] * (raw.index % raw.shape[2])
        normal = torch.linalg.cross(
            matrix[:3, 1], matrix[:3, 0]
        )  # across x down, as DICOM's readers sort
        position = float(normal @ matrix[:3, 3] / normal.norm())
        affine = tuple(tuple(row) for row in matrix.tolist())
    return replace(
        meta,
        format="dicom",
        dtype="int16",
        slope=HEADROOM * white / 2**15,
        count=1,
        shape=(),
        affine=affine,
        position=position,
        photometric="MONOCHROME2",
        source=digest("kspace", raw.series or "", str(raw.index)),
    )
