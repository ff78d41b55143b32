"""Operators on volumes [B,C,D,H,W]; D counts slices. Each has the exact adjoint and `solve` of its kind in two dimensions."""

from solvers.operators.volume.blur import VolumeBlur
from solvers.operators.volume.mri import CartesianVolumeMRI, VolumeMRI
from solvers.operators.volume.slices import MissingSlices
from solvers.operators.volume.slicewise import Slicewise
from solvers.operators.volume.through_plane import ThroughPlane

__all__ = [
    "CartesianVolumeMRI",
    "MissingSlices",
    "Slicewise",
    "ThroughPlane",
    "VolumeBlur",
    "VolumeMRI",
]
