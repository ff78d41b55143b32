"""Cartesian k-space of one slice: readouts without their oversampling, and the fully sampled middle."""

from dataclasses import replace

import torch
from torch import Tensor

from data.files import Refusal
from data.formats.kspace import Raw
from solvers.measured.scanner import centred
from solvers.operators.kspace import fourier_along, inverse_fourier_along


def without_oversampling(raw: Raw) -> Raw:
    """k-space of the picture's rows alone, where the readout was oversampled and every line of it is whole.

    A whole line is a profile, of which the middle is kept: nothing of the picture is lost, and its noise stays white.
    """
    (h, w), rows = raw.kspace.shape[-2:], raw.kept[0]
    if raw.trajectory is not None or rows == h or not bool((raw.mask == raw.mask[:1]).all()):
        return raw

    def shortened(z: Tensor | None) -> Tensor | None:
        if z is None:
            return None
        return fourier_along(centred(inverse_fourier_along(z, -2), (rows, w)), -2)

    mask = raw.mask[:rows]
    kspace = shortened(raw.kspace)
    assert kspace is not None
    calibration = shortened(raw.calibration)
    if calibration is not None and raw.calibration is not None:
        calibration = torch.where((raw.calibration != 0).any(0).any(0), calibration, 0)
    return replace(raw, kspace=torch.where(mask, kspace, 0), mask=mask, calibration=calibration)


def middle(raw: Raw, lines: int, fewest: int, where: str) -> Tensor:
    """The calibration region [C,h,w], frequency 0 at [h//2, w//2]: of a scan of its own, else the fully sampled middle."""
    mask = raw.mask if raw.calibration is None else (raw.calibration != 0).any(0)
    data = raw.kspace if raw.calibration is None else raw.calibration
    h, w = extent(mask, lines)
    if min(h, w) < fewest and len(data) > 1 or min(h, w) < 2:
        need = fewest if len(data) > 1 else 2
        raise Refusal(
            f"{where}: no calibration region: the fully sampled middle of k-space is {h}×{w}; {need}×{need} or more is"
            " allowed, or a calibration scan"
        )
    loudest = divmod(int(data.abs().square().sum(0).argmax()), data.shape[-1])
    if any(abs(at - n // 2) > max(n // 8, 2) for at, n in zip(loudest, data.shape[-2:])):
        middle = [n // 2 for n in data.shape[-2:]]
        raise Refusal(
            f"{where}: k-space is loudest at {list(loudest)}; frequency 0 at {middle} is allowed (fftshift)"
        )
    return centred(data, (h, w))


def extent(mask: Tensor, most: int) -> tuple[int, int]:
    """The largest fully measured rectangle around [H//2, W//2] of at most `most` lines each way, as wide as high if it can."""
    h, w = mask.shape
    best = (0, 0)
    for n in range(1, min(most, max(h, w)) + 1):
        sides = (min(n, h), min(n, w))
        if bool(centred(mask, sides).all()):
            best = max(best, sides)
    return best
