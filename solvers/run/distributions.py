"""Numbers about two sets of images or of their features: are they the same population? All in float64."""

import numpy as np
import torch
from scipy import linalg
from torch import Tensor

from solvers import metrics


def moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean [D] and unbiased covariance [D,D] of features [N,D]."""
    features = features.astype(np.float64)
    return features.mean(0), np.cov(features, rowvar=False)


def frechet(mu_a: np.ndarray, sigma_a: np.ndarray, mu_b: np.ndarray, sigma_b: np.ndarray) -> float:
    """|mu_a - mu_b|^2 + Tr(S_a + S_b - 2 (S_a S_b)^(1/2)), Heusel et al. 2017."""
    # The eigenvalues of S_a S_b are those of S_a^(1/2) S_b S_a^(1/2), which is symmetric: no complex root to discard.
    values, vectors = linalg.eigh(np.atleast_2d(sigma_a))
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    cross = np.sqrt(linalg.eigvalsh(root @ np.atleast_2d(sigma_b) @ root).clip(0)).sum()
    return float(
        ((mu_a - mu_b) ** 2).sum()
        + np.trace(np.atleast_2d(sigma_a))
        + np.trace(np.atleast_2d(sigma_b))
        - 2 * cross
    )


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """KID: unbiased squared MMD with the kernel (x y / D + 1)^3 on features [N,D], [M,D] (Binkowski et al. 2018)."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    within = [
        (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (_cubic(a, a), _cubic(b, b))
    ]
    return float(within[0] + within[1] - 2 * _cubic(a, b).mean())


def _cubic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3


def radial_spectrum(images: Tensor) -> Tensor:
    """Mean power of images [B,C,H,W] at each whole frequency, [min(H,W)//2]; white noise of variance s2 is s2 everywhere."""
    height, width = images.shape[-2:]
    power = torch.fft.fft2(images.double(), norm="ortho").abs().square().mean((0, 1))
    fy, fx = torch.fft.fftfreq(height, 1 / height), torch.fft.fftfreq(width, 1 / width)
    size = min(height, width)
    ring = (
        (((fy[:, None] / height) ** 2 + (fx / width) ** 2).sqrt() * size).round().long().flatten()
    )
    total = torch.zeros(int(ring.max()) + 1, dtype=torch.float64).index_add_(
        0, ring, power.flatten()
    )
    count = torch.zeros_like(total).index_add_(0, ring, torch.ones_like(power.flatten()))
    return (total / count)[: size // 2]


def spectral_distance(a: Tensor, b: Tensor) -> float:
    """Root mean square difference of the two radial spectra in dB, mean intensity left out."""
    difference = (
        10
        * (radial_spectrum(a)[1:] / radial_spectrum(b)[1:].clamp_min(1e-20))
        .clamp_min(1e-20)
        .log10()
    )
    return float(difference.square().mean().sqrt())


def nearest(images: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """PSNR and SSIM of each image [B,...] to the reference image nearest to it in PSNR: very high ones are copies. [B], [B]"""
    distance = torch.cdist(images.double().flatten(1), reference.double().flatten(1))
    closest = reference[distance.argmin(1)]
    return metrics.psnr(images, closest), metrics.ssim(images, closest)
