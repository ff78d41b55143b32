"""Every operator by name: `solvers.operators.<Class>`."""

from solvers.operators.blur import GaussianBlur, KernelBlur, MotionBlur, UniformBlur
from solvers.operators.inpainting import BoxInpainting, Inpainting, Outpainting, RandomInpainting, StripeInpainting
from solvers.operators.nonlinear_blur import NetworkBlur, NonlinearBlur
from solvers.operators.phase_retrieval import PhaseRetrieval
from solvers.operators.pointwise import Denoising, HighDynamicRange, TileCentre
from solvers.operators.super_resolution import GaussianSuperResolution, KernelSuperResolution, SuperResolution

__all__ = [
    "BoxInpainting",
    "Denoising",
    "GaussianBlur",
    "GaussianSuperResolution",
    "HighDynamicRange",
    "Inpainting",
    "KernelBlur",
    "KernelSuperResolution",
    "MotionBlur",
    "NetworkBlur",
    "NonlinearBlur",
    "Outpainting",
    "PhaseRetrieval",
    "RandomInpainting",
    "StripeInpainting",
    "SuperResolution",
    "TileCentre",
    "UniformBlur",
]
