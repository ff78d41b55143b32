"""What water attenuates in a scan, on which HU rest, and which rays may be trusted."""

import math
from dataclasses import replace

import numpy as np
import torch

from data.files import Refusal
from data.formats import sinogram as files
from data.formats.sinogram import Sinogram
from data.formats.sinogram.allowed import WATER
from data.formats.sinogram.description import Description
from solvers.measured import counts
from solvers.operators.ct_fbp import filtered_backprojection
from solvers.operators.ct_geometry import Geometry
from solvers.operators.ct_measured import filled

OBJECT = 0.6  # of a water phantom's radius, within which its attenuation is taken


def good_rays(said: Description, p: np.ndarray) -> np.ndarray:
    """Which rays are used, bool [views,bins]."""
    bad = np.broadcast_to(said.bad(*p.shape), p.shape)
    if said.bad_channels == "auto":
        bad = bad | counts.bad_channels(p)
    if bad.all(1).any():
        raise Refusal(f"{said.path}: bad_channels leave nothing of a view")
    return ~bad


def water(said: Description, geometry: Geometry, size: tuple[int, int]) -> float:
    """Attenuation of water in 1/mm: as it is told, or in the middle of a scan of water alone."""
    if not isinstance(said.mu_water, dict):
        return float(said.mu_water)
    path = said.path.parent / said.mu_water["scan"]
    told = replace(said, mu_water=0.02)
    if not path.is_file():
        raise Refusal(f"{said.path}: mu_water names {path.name!r}, which is no file beside it")
    values, total = files.arrays.read(path, told, 0)
    if values.shape != (geometry.views, geometry.bins):
        raise Refusal(
            f"{path}: {values.shape} views and bins; those of the scan, {(geometry.views, geometry.bins)}, are due"
        )
    p, _, _ = counts.integrals(Sinogram(values, told, 0, total), str(path))
    y = torch.from_numpy(p)[None, None]
    if not (good := good_rays(told, p)).all():
        y = filled(y, torch.from_numpy(good)[None, None].to(y))
    image = filtered_backprojection(geometry, y, *size, "hann")[0, 0].numpy()
    inside = image > np.quantile(image, 0.98) / 2
    i, j = np.nonzero(inside)
    radius = math.sqrt(len(i) / math.pi)
    rows, columns = np.indices(image.shape)
    core = np.hypot(rows - i.mean(), columns - j.mean()) < OBJECT * radius
    value = float(image[core].mean())
    if not WATER[0] < value < WATER[1] or not inside[core].all():
        raise Refusal(
            f"{path}: is no scan of water: {value:.3g}/mm in its middle; one round vessel of water is allowed"
        )
    return value
