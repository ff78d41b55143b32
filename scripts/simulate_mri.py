"""Simulate the raw file of a multi-coil MRI scan of given images: coil sensitivities, a smooth phase, correlated noise.

    python scripts/simulate_raw.py mri models/demo-data/brain2.nii.gz --output scan.h5 --truth truth/scan.nii.gz
    python scripts/simulate_raw.py mri IMAGES... --output scan.mrd --coils 16 --acceleration 8 --partial-fourier 0.75

The suffix says the format: .h5 fastMRI, .mrd ISMRMRD (with a noise scan), .cfl BART, .npy with a YAML. Each image is one slice,
its brightest value 1; k-space is in units of --unit. The truth is the root of the sum of squares over the coils, noise-free.
Exit codes: 0 done, 2 a mistake in what was asked (one line says which).
"""

import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from simulate_mri_files import WRITERS, Volume

from data import formats
from data.files import Refusal
from data.seeding import Noise
from solvers.operators import kspace
from solvers.run import door
from solvers.run.flags import Parser, whole

RADIUS = 1.35  # of the ring of coils, in halves of the field of view
WAVES = 1.5  # cycles of the phase over the field of view, at most
CORRELATION = 0.3  # of the noise of neighbouring coils
NOISE_SAMPLES = 4096  # of the noise scan


@dataclass(frozen=True)
class Coils:
    """S [coils,H,W] complex over the field of view, and the lower triangle L of their noise, n = L z."""

    S: Tensor
    L: Tensor


def main(argv: Sequence[str]) -> int:
    return door.run("simulate_raw.py", argv, lambda: simulate(parser().parse_args(argv)))


def parser() -> Parser:
    made = Parser("simulate_raw.py", __doc__)
    add = made.add_argument
    add(
        "images",
        nargs="+",
        type=Path,
        help="image files or volumes, each slice of which is one of the scan",
    )
    add("--output", type=Path, required=True, help="fastMRI .h5, ISMRMRD .mrd, BART .cfl or .npy")
    add("--truth", type=Path, help="write the noise-free RSS volume as NIfTI")
    add(
        "--slices",
        type=whole,
        metavar="N",
        help="as many slices, from the first image again if there are fewer",
    )
    add("--coils", type=whole, default=8)
    add("--acceleration", type=float, default=4.0)
    add("--centre", type=float, help="fully sampled fraction of the columns (0.32 / acceleration)")
    add(
        "--partial-fourier",
        type=float,
        default=1.0,
        help="fraction of the columns between the first and the last",
    )
    add("--oversampling", type=float, default=2.0, help="of the readout")
    add(
        "--noise",
        type=float,
        default=0.01,
        help="sigma of real entries, for images of 1 under an orthonormal transform",
    )
    add("--unit", type=float, default=1e-4, help="what 1 is in the file")
    add(
        "--pixel",
        type=float,
        nargs=2,
        default=(0.78125, 0.78125),
        metavar="MM",
        help="spacing of rows and columns",
    )
    add("--slice-step", type=float, default=6.5, metavar="MM")
    add("--seed", type=int, default=0)
    return made


def simulate(options: Namespace) -> int:
    """Every slice in turn; the file is written when all are there."""
    write = WRITERS.get(options.output.suffix.lower())
    if write is None:
        raise Refusal(f"{options.output}: {', '.join(WRITERS)} are allowed")
    if not (
        options.acceleration >= 1
        and 0.5 < options.partial_fourier <= 1
        and options.oversampling >= 1
    ):
        raise Refusal(
            "acceleration >= 1, 0.5 < partial-fourier <= 1 and oversampling >= 1 are allowed"
        )
    pictures = list(slices(options))
    rows, columns = pictures[0].shape
    readout = 2 * round(rows * options.oversampling / 2) if options.oversampling > 1 else rows
    coils = ring(options.coils, (readout, columns), readout / rows, stream(options, "coils"))
    mask = lines(columns, options, stream(options, "mask"))
    data, truth = [], []
    for number, picture in enumerate(pictures):
        phase = smooth_phase(picture.shape, stream(options, f"phase {number}"))
        k = measured(picture, phase, coils, mask, options.noise, stream(options, f"noise {number}"))
        data.append((k * options.unit).numpy().astype(np.complex64))
        rss = coils.S.abs().square().sum(0).sqrt()
        truth.append(middle(rss, picture.shape) * picture * options.unit)
    scan = noise_scan(coils, options.noise, stream(options, "noise scan")) * options.unit
    volume = Volume(
        np.stack(data),
        mask.numpy() > 0,
        scan.numpy().astype(np.complex64),
        (rows, columns),
        options,
    )
    write(volume, options.output)
    if options.truth:
        options.truth.parent.mkdir(parents=True, exist_ok=True)
        save(torch.stack(truth), volume, options.truth)
    print(
        f"{options.output}: {len(data)} slices, {options.coils} coils, k-space {readout}×{columns},"
        f" {int(mask.sum())} columns measured"
    )
    return 0


def stream(options: Namespace, what: str) -> Noise:
    """Each thing that is drawn has numbers of its own, decided by the seed."""
    return Noise([f"simulated scan, {what}"], "noise", options.seed)


def slices(options: Namespace) -> Iterator[Tensor]:
    """Images [H,W] of one size in [0, 1], the brightest of each file's 1."""
    found = []
    for path in options.images:
        images = [formats.upright(formats.read(path, i)).pixels for i in range(formats.count(path))]
        peak = max(float(image.max()) for image in images)
        found += [image.mean(0).double().clamp_min(0) / peak for image in images]
    if len({image.shape for image in found}) > 1:
        raise Refusal(
            f"images of {len({image.shape for image in found})} sizes; one size is allowed"
        )
    for i in range(options.slices or len(found)):
        yield found[i % len(found)]


def ring(count: int, shape: tuple[int, int], extent: float, noise: Noise) -> Coils:
    """Loops around the body whose field falls off with the distance and turns with the angle, each of its own gain.

    extent: how many fields of view the rows span.
    """
    h, w = shape
    y, x = torch.meshgrid(centred(h) * extent, centred(w), indexing="ij")
    draw = noise.normal((1, 3, count), torch.float64)[0]
    angle = torch.arange(count).double() * 2 * torch.pi / count + 0.1 * draw[0]
    dx, dy = (x - RADIUS * angle.cos()[:, None, None], y - RADIUS * angle.sin()[:, None, None])
    S = (1 + (dx.square() + dy.square()) / 0.8) ** -1.2 * torch.exp(1j * torch.atan2(dy, dx))
    S = S * torch.exp(0.2 * draw[1] + 1j * torch.pi * draw[2])[:, None, None]
    inside = (x.abs() < 1) & (y.abs() < 1)
    S = S / S.abs().square().sum(0).sqrt()[inside].mean()
    apart = (torch.arange(count)[:, None] - torch.arange(count)).abs()
    apart = torch.minimum(apart, count - apart)
    gains = torch.exp(0.2 * draw[1])
    psi = torch.where(apart > 0, CORRELATION ** apart.double(), 1.0) * gains[:, None] * gains
    return Coils(
        S, torch.linalg.cholesky(psi.to(torch.complex128)) / (psi.diagonal().mean()) ** 0.5
    )


def measured(
    picture: Tensor, phase: Tensor, coils: Coils, mask: Tensor, sigma: float, noise: Noise
) -> Tensor:
    """k-space [coils,H,W] of one slice, noise in the measured columns."""
    h, w = coils.S.shape[-2:]
    body = torch.zeros(h, w, dtype=torch.complex128)
    middle(body, picture.shape)[:] = picture * torch.exp(1j * phase)
    k = kspace.fourier(coils.S * body)
    return mask * (k + sigma * correlated(coils.L, (h, w), noise))


def smooth_phase(shape: Sequence[int], noise: Noise) -> Tensor:
    """Radians [H,W]: a constant, a slope, and the slow waves of an inhomogeneous field."""
    y, x = torch.meshgrid(centred(shape[0]), centred(shape[1]), indexing="ij")
    a = noise.normal((1, 12), torch.float64)[0]
    slopes = torch.pi * a[0] + a[1] * y + a[2] * x + 0.8 * a[3] * (y.square() + x.square())
    waves = [
        a[4 + i]
        * torch.cos(torch.pi * WAVES * (y * a[6 + i].tanh() + x * a[8 + i].tanh()) + a[10 + i])
        for i in range(2)
    ]
    return slopes + 0.5 * (waves[0] + waves[1])


def noise_scan(coils: Coils, sigma: float, noise: Noise) -> Tensor:
    return sigma * correlated(coils.L, (NOISE_SAMPLES,), noise)


def correlated(L: Tensor, shape: tuple[int, ...], noise: Noise) -> Tensor:
    """n = L z with real and imaginary parts of z of deviation 1."""
    z = noise.normal((1, 2, len(L), *shape), torch.float64)[0]
    return (L @ torch.complex(z[0], z[1]).flatten(1)).unflatten(1, shape)


def lines(columns: int, options: Namespace, noise: Noise) -> Tensor:
    """[W] which columns are measured; of partial Fourier the first are left out."""
    centre = options.centre if options.centre is not None else 0.32 / options.acceleration
    mask = kspace.equispaced(1, columns, options.acceleration, centre, noise)[0, 0]
    mask[: round(columns * (1 - options.partial_fourier))] = 0
    return mask


def centred(n: int) -> Tensor:
    """-1 to 1 over n pixels, 0 at n//2."""
    return (torch.arange(n, dtype=torch.float64) - n // 2) / (n / 2)


def middle(image: Tensor, shape: Sequence[int]) -> Tensor:
    """A view of the middle of [...,H,W]."""
    top, left = (n // 2 - m // 2 for n, m in zip(image.shape[-2:], shape))
    return image[..., top : top + shape[0], left : left + shape[1]]


def save(truth: Tensor, volume: Volume, path: Path) -> None:
    """[slices,H,W] as a NIfTI that lies where the scan does."""
    count = len(truth)
    shape = (*truth.shape[1:], count)
    metas = [
        formats.Meta("nifti", "float32", index=i, count=count, shape=shape, affine=volume.affine)
        for i in range(count)
    ]
    images = [formats.Image(one[None].float(), meta) for one, meta in zip(truth, metas)]
    if count > 1:
        formats.reassemble(images, path)
    else:
        formats.write(images[0], path)
