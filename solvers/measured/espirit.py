"""Coil sensitivities by ESPIRiT (Uecker et al. 2014), and fewer coils, from the middle of k-space."""

import torch
from torch import Tensor

from solvers.operators.kspace import inverse_fourier

SQUARINGS = 6  # (second eigenvalue / first)^64 is what is left of the second
CHUNK = 64  # rows of the image whose small matrices are held together


def compression(calibration: Tensor, coils: int) -> tuple[Tensor, float]:
    """Virtual coils (Huang et al. 2008): rows of U^H [V,C] of the strongest directions, and the share of power they keep."""
    U, s, _ = torch.linalg.svd(calibration.flatten(1), full_matrices=False)
    power = s.square()
    return U[:, :coils].mH, float(power[:coils].sum() / power.sum())


def espirit(
    calibration: Tensor, shape: tuple[int, ...], kernel: int, threshold: float, floor: float
) -> tuple[Tensor, Tensor]:
    """Maps [C,H,W] of unit norm over the coils, and the eigenvalue [H,W] there: near 1 where there is an image, less beyond.

    Rows of the calibration matrix are all patches kernel x kernel of k-space [C,h,w]. Their signal space, singular vectors w_r
    above threshold times the largest singular value, and above the noise's (floor), gives at each pixel
    G = |kernel|^-1 sum_r w_r w_r^H, with w_r transformed to the image; maps are the eigenvectors of G to its largest eigenvalue.
    """
    coils, h, w = calibration.shape
    k = (min(kernel, h), min(kernel, w))
    patches = calibration.unfold(1, k[0], 1).unfold(2, k[1], 1)  # [C,h',w',ky,kx]
    A = patches.permute(1, 2, 0, 3, 4).flatten(0, 1).flatten(1)
    values, V = torch.linalg.eigh(A.mH @ A)  # columns v_r; a patch is a sum of conj(v_r)
    singular = values.clamp_min(0).sqrt()
    signal = singular > max(
        threshold * float(singular[-1]), floor * (A.shape[0] ** 0.5 + A.shape[1] ** 0.5)
    )
    signal[-1] = True
    kernels = V[:, signal].mT.conj().unflatten(1, (coils, *k))
    return eigenmaps(correlations(kernels), shape, k)


def correlations(kernels: Tensor) -> Tensor:
    """K[c,c',t] = sum_r sum_d w_r[c,d] conj(w_r[c',d+t]) of kernels [R,C,ky,kx], t from -(k-1) to k-1: [C,C,2ky-1,2kx-1].

    sum_r w_r(x) w_r(x)^H has these as its coefficients, so C^2 transforms do for any number of kernels.
    """
    ky, kx = kernels.shape[-2:]
    size = (2 * ky - 1, 2 * kx - 1)
    spectra = torch.fft.fft2(kernels, size)
    products = torch.einsum("rcyx,rdyx->cdyx", spectra, spectra.conj())
    return torch.fft.fftshift(torch.fft.ifft2(products), dim=(-2, -1))


def eigenmaps(K: Tensor, shape: tuple[int, ...], k: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The largest eigenvalue of G at each pixel and its eigenvector, whose first coil is real."""
    coils, (h, w) = len(K), shape[-2:]
    y, x = torch.arange(h) - h // 2, torch.arange(w) - w // 2
    ty, tx = torch.arange(1 - k[0], k[0]), torch.arange(1 - k[1], k[1])
    Ey = torch.exp(2j * torch.pi * y[:, None] * ty / h).to(K.dtype)
    Ex = torch.exp(2j * torch.pi * x[:, None] * tx / w).to(K.dtype)
    along = torch.einsum("cdts,xs->cdtx", K, Ex)  # short sums, as K has few coefficients
    maps, values = torch.empty(coils, h, w, dtype=K.dtype), torch.empty(h, w, dtype=K.real.dtype)
    for start in range(0, h, CHUNK):
        rows = slice(start, start + CHUNK)
        G = torch.einsum("cdtx,yt->yxcd", along, Ey[rows]) / (k[0] * k[1])
        first, value = dominant(G)
        turn = first[..., :1].conj() / first[..., :1].abs().clamp_min(1e-12)
        maps[:, rows], values[rows] = (first * turn).permute(2, 0, 1), value
    return maps, values


def dominant(G: Tensor) -> tuple[Tensor, Tensor]:
    """The largest eigenvalue of Hermitian matrices [...,C,C] and its eigenvector, by squaring: G^(2^SQUARINGS)."""
    power = G
    for _ in range(SQUARINGS):
        power = power @ power
        power = (
            power / power.diagonal(dim1=-2, dim2=-1).real.sum(-1).clamp_min(1e-30)[..., None, None]
        )
    column = power.diagonal(dim1=-2, dim2=-1).real.argmax(-1)
    vector = power.gather(-1, column[..., None, None].expand(*power.shape[:-1], 1))[..., 0]
    vector = vector / vector.abs().square().sum(-1, keepdim=True).sqrt().clamp_min(1e-30)
    value = (vector.conj() * (G @ vector[..., None])[..., 0]).sum(-1).real
    return vector, value


def windowed(calibration: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Images [C,H,W] of the calibration region alone, under a Hann window that keeps its edges from ringing."""
    coils, h, w = calibration.shape
    window = hann(h)[:, None] * hann(w)
    full = torch.zeros(coils, *shape, dtype=calibration.dtype)
    top, left = shape[0] // 2 - h // 2, shape[1] // 2 - w // 2
    full[:, top : top + h, left : left + w] = calibration * window.to(calibration.real.dtype)
    return inverse_fourier(full)


def hann(n: int) -> Tensor:
    """Of n samples around n//2, none of them 0."""
    t = (torch.arange(n, dtype=torch.float64) - n // 2) / (n // 2 + 1)
    return (1 + torch.cos(torch.pi * t)) / 2
