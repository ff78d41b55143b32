"""Simulate the raw file of a multi-coil MRI scan of given images: coil sensitivities, a smooth phase, correlated noise.

    python scripts/simulate_raw.py mri models/demo-data/brain2.nii.gz --output scan.h5 --truth truth/scan.nii.gz
    python scripts/simulate_raw.py mri IMAGES... --output scan.mrd --coils 16 --acceleration 8 --partial-fourier 0.75
    python scripts/simulate_raw.py mri IMAGES... --output scan.cfl --trajectory radial --shots 64

The suffix says the format: .h5 fastMRI, .mrd ISMRMRD (with a noise scan), .cfl BART, .npy with a YAML. Each image is one slice,
its brightest value 1; k-space is in units of --unit. The truth is the root of the sum of squares over the coils, noise-free.
Exit codes: 0 done, 2 a mistake in what was asked (one line says which).
"""

import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from simulate_mri_coils import Coils, correlated, middle, noise_scan, ring, smooth_phase
from simulate_mri_files import WRITERS, Volume

from data import formats
from data.files import Refusal
from data.seeding import Noise
from solvers.operators import kspace
from solvers.operators import mri_trajectories as trajectories
from solvers.operators.nufft import NonuniformFourier
from solvers.run import door
from solvers.run.flags import Parser, whole

TURNS, DENSITY = 4.0, 1.5  # of spirals


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
    add(
        "--trajectory",
        choices=("radial", "spiral"),
        help="golden-angle spokes, or spirals closer in the middle; not .h5",
    )
    add("--shots", type=whole, help="of a trajectory (64 radial, 16 spiral)")
    add("--samples", type=whole, help="of each shot (2 a pixel across radial, 8 a pixel spiral)")
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
    if options.trajectory and write is WRITERS[".h5"]:
        raise Refusal(
            f"{options.output}: fastMRI files are Cartesian; .mrd, .cfl or .npy is allowed"
        )
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
    if options.trajectory:
        options.oversampling = 1.0
    readout = 2 * round(rows * options.oversampling / 2) if options.oversampling > 1 else rows
    coils = ring(options.coils, (readout, columns), readout / rows, stream(options, "coils"))
    k = path(options, rows, columns) if options.trajectory else None
    mask = torch.ones(1) if k is not None else lines(columns, options, stream(options, "mask"))
    data, truth = [], []
    for number, picture in enumerate(pictures):
        phase = smooth_phase(picture.shape, stream(options, f"phase {number}"))
        noise = stream(options, f"noise {number}")
        samples = mask * measured(picture, phase, coils, k, options.noise, noise)
        data.append((samples * options.unit).numpy().astype(np.complex64))
        rss = coils.S.abs().square().sum(0).sqrt()
        truth.append(middle(rss, picture.shape) * picture * options.unit)
    scan = noise_scan(coils, options.noise, stream(options, "noise scan")) * options.unit
    volume = Volume(
        np.stack(data),
        mask.numpy() > 0,
        scan.numpy().astype(np.complex64),
        (rows, columns),
        options,
        None if k is None else k.numpy(),
    )
    write(volume, options.output)
    if options.truth:
        options.truth.parent.mkdir(parents=True, exist_ok=True)
        save(torch.stack(truth), volume, options.truth)
    what = f"k-space {readout}×{columns}, {int(mask.sum())} columns measured"
    if k is not None:
        what = f"{k.shape[1]} shots of {k.shape[2]} samples"
    print(f"{options.output}: {len(data)} slices, {options.coils} coils, {what}")
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


def measured(
    picture: Tensor, phase: Tensor, coils: Coils, k: Tensor | None, sigma: float, noise: Noise
) -> Tensor:
    """k-space [coils,H,W] of one slice with noise, or [coils,shots,samples] along a trajectory k."""
    h, w = coils.S.shape[-2:]
    body = torch.zeros(h, w, dtype=torch.complex128)
    middle(body, picture.shape)[:] = picture * torch.exp(1j * phase)
    if k is None:
        samples = kspace.fourier(coils.S * body)
    else:
        samples = NonuniformFourier(k.flatten(1), (h, w)).forward(coils.S * body)
        samples = samples.unflatten(-1, k.shape[1:])
    return samples + sigma * correlated(coils.L, tuple(samples.shape[1:]), noise)


def path(options: Namespace, rows: int, columns: int) -> Tensor:
    """[2,shots,samples] in cycles per field of view."""
    if options.trajectory == "radial":
        samples = options.samples or 2 * max(rows, columns)
        return trajectories.radial(rows, columns, options.shots or 64, samples)
    samples = options.samples or 8 * max(rows, columns)
    return trajectories.spiral(rows, columns, options.shots or 16, TURNS, samples, DENSITY)


def lines(columns: int, options: Namespace, noise: Noise) -> Tensor:
    """[W] which columns are measured; of partial Fourier the first are left out."""
    centre = options.centre if options.centre is not None else 0.32 / options.acceleration
    mask = kspace.equispaced(1, columns, options.acceleration, centre, noise)[0, 0]
    mask[: round(columns * (1 - options.partial_fourier))] = 0
    return mask


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
