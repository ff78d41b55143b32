"""Every operator by name: `solvers.operators.<Class>`."""

from solvers.operators.blur import BlindBlur, GaussianBlur, KernelBlur, MotionBlur, UniformBlur
from solvers.operators.composed import Composition
from solvers.operators.compressed_sensing import CompressedSensing
from solvers.operators.ct import CT
from solvers.operators.ct_measured import GeometryCT
from solvers.operators.inpainting import (
    BoxInpainting,
    Inpainting,
    Outpainting,
    RandomInpainting,
    StripeInpainting,
)
from solvers.operators.mri import MRI
from solvers.operators.mri_noncartesian import NonCartesianMRI, SpiralMRI, SpokesMRI
from solvers.operators.mri_recipes import CartesianMRI, RadialMRI
from solvers.operators.nonlinear_blur import NetworkBlur, NonlinearBlur
from solvers.operators.phase_retrieval import PhaseRetrieval
from solvers.operators.physics import Physics
from solvers.operators.pointwise import Denoising, HighDynamicRange, TileCentre
from solvers.operators.super_resolution import (
    GaussianSuperResolution,
    KernelSuperResolution,
    SuperResolution,
)

__all__ = [
    "BlindBlur",
    "BoxInpainting",
    "CT",
    "CartesianMRI",
    "Composition",
    "CompressedSensing",
    "Denoising",
    "GaussianBlur",
    "GaussianSuperResolution",
    "GeometryCT",
    "HighDynamicRange",
    "Inpainting",
    "KernelBlur",
    "KernelSuperResolution",
    "MRI",
    "MotionBlur",
    "NetworkBlur",
    "NonCartesianMRI",
    "NonlinearBlur",
    "Outpainting",
    "PhaseRetrieval",
    "Physics",
    "RadialMRI",
    "RandomInpainting",
    "SpiralMRI",
    "SpokesMRI",
    "StripeInpainting",
    "SuperResolution",
    "TileCentre",
    "UniformBlur",
]
