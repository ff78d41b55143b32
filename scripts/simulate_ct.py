"""Simulate what a CT scanner measures, written as its file: a sinogram, and the YAML beside it that says its geometry.

    python scripts/simulate_ct.py models/demo-data/lung2-ax-035.dcm scan.npy --geometry fan --views 60 --counts 1e4
    python scripts/simulate_ct.py data/demo/test/lung2 stack.h5 --geometry fan --detector curved --limit 8
    python scripts/simulate_ct.py wedges wedges.npy --views 720 --counts 1e6        # water with wedges of known HU

SCAN: an image in HU, a folder or volume of them, or `wedges`. OUT: .npy, .h5, .tif or .nrrd. Each cell of the detector averages
the intensity of three rays through pixels half as large, so that what is simulated is not what is later inverted.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml
from simulate_ct_files import description, write

from data import formats, sources
from data.files import Refusal, commit
from solvers.operators.ct_geometry import Geometry
from solvers.operators.projection import rows_of
from solvers.run import door

MU_WATER = 0.0192  # 1/mm, at 70 keV
FINER = 2  # pixels of the simulation in one of the scan's
SEEN = 1.5  # sides of the image, that the detector is wide at the axis
SUBRAYS = 3  # in a cell
WEDGES = (
    (-1000, 0),
    (-100, 60),
    (50, 120),
    (120, 180),
    (350, 240),
    (800, 300),
)  # HU, and the angle that a wedge begins at
WATER_RADIUS, WEDGE_INNER, WEDGE_OUTER, WEDGE_ANGLE = 110.0, 35.0, 85.0, 36.0  # mm, degrees
KINDS = {"npy": ".npy", "hdf5": ".h5", "tiff": ".tif", "nrrd": ".nrrd"}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "simulate_ct.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add("scan", metavar="SCAN", help="an image, volume or folder in HU, or `wedges`")
    add("out", metavar="OUT", type=Path, help="the sinogram: .npy, .h5, .tif or .nrrd")
    add("--geometry", choices=("parallel", "fan"), default="fan")
    add("--detector", choices=("flat", "curved"), default="flat")
    add("--views", type=int, default=60)
    add("--bins", type=int, default=512)
    add(
        "--pitch",
        type=float,
        help="mm from cell to cell on the detector (default: the image is seen to its corners)",
    )
    add("--source-to-axis", type=float, default=541.0, metavar="MM")
    add("--source-to-detector", type=float, default=949.0, metavar="MM")
    add("--arc", type=float, help="degrees (default: 360 fan, 180 parallel)")
    add("--start", type=float, default=0.0, help="degrees, of the first view")
    add("--direction", choices=("counterclockwise", "clockwise"), default="counterclockwise")
    add("--bins-run", choices=("right", "left"), default="right")
    add("--offset", type=float, default=0.0, help="of the detector, in bins")
    add(
        "--misplaced",
        type=float,
        default=0.0,
        metavar="BINS",
        help="by how much the true offset is more than the YAML says",
    )
    add(
        "--counts",
        type=float,
        default=1e4,
        help="photons of a ray without an object; 0: line integrals, with --sigma",
    )
    add(
        "--sigma", type=float, default=0.0, help="standard deviation of the noise of line integrals"
    )
    add("--dark", type=float, default=0.0, help="counts without X-rays")
    add("--electronic-noise", type=float, default=0.0, help="standard deviation in counts")
    add("--dead", type=int, nargs="*", default=[], metavar="BIN", help="bins that measure nothing")
    add("--mu-water", type=float, default=MU_WATER, metavar="1/MM")
    add("--size", type=int, default=256, help="pixels of the wedges' image")
    add("--limit", type=int, metavar="N", help="slices")
    add("--seed", type=int, default=0)
    return made


def simulate(options: argparse.Namespace) -> int:
    """Write the sinogram of every slice and the YAML."""
    if options.out.suffix.lower() not in (".npy", ".h5", ".hdf5", ".tif", ".tiff", ".nrrd"):
        raise Refusal(f"{options.out}: .npy, .h5, .tif or .nrrd is allowed")
    images = list(slices(options))
    spacing, shape = images[0].meta.spacing, tuple(images[0].pixels.shape[-2:])
    if (
        spacing is None
        or abs(spacing[0] - spacing[1]) > 1e-3
        or any(tuple(i.pixels.shape[-2:]) != shape for i in images)
    ):
        raise Refusal(
            f"{options.scan}: square pixels of a known size in mm, alike in all slices, are allowed"
        )
    geometry = planned(options, spacing[0], shape)
    true = replace(geometry, offset=geometry.offset + options.misplaced)
    stack = [
        measured(image.pixels[0].double().numpy(), true, options, k)
        for k, image in enumerate(images)
    ]
    data = np.stack(stack) if len(stack) > 1 else stack[0]
    write(options.out, data)
    text = yaml.safe_dump(description(options, geometry, shape, images), sort_keys=False)
    commit(options.out.with_suffix(".yaml"), text)
    print(
        f"{options.out}: {' x '.join(map(str, data.shape))}, {options.out.with_suffix('.yaml').name} beside it"
    )
    return 0


def slices(options: argparse.Namespace) -> Iterator[formats.Image]:
    if options.scan == "wedges":
        pixels = wedges(options.size, 256 / options.size)
        yield formats.Image(
            pixels, formats.Meta("npy", "float32", spacing=(256 / options.size,) * 2)
        )
        return
    if not Path(options.scan).exists():
        raise Refusal(f"{options.scan}: no such file or folder")
    for row in sources.find(options.scan)[: options.limit]:
        yield formats.upright(formats.read(row.path, row.slice))


def wedges(size: int, pixel: float):
    """A vessel of water with wedges of known HU, [1,size,size], edges averaged over 8 x 8 samples."""
    import torch

    line = (np.arange(8 * size) + 0.5) * pixel / 8 - size * pixel / 2
    x, y = line[None], -line[:, None]
    radius, angle = np.hypot(x, y), np.degrees(np.arctan2(y, x)) % 360
    hu = np.where(radius < WATER_RADIUS, 0.0, -1000.0)
    for value, begin in WEDGES:
        inside = (
            (radius > WEDGE_INNER) & (radius < WEDGE_OUTER) & ((angle - begin) % 360 < WEDGE_ANGLE)
        )
        hu[inside] = value
    return torch.from_numpy(hu.reshape(size, 8, size, 8).mean((1, 3)).astype(np.float32))[None]


def planned(options: argparse.Namespace, pixel: float, shape: tuple[int, int]) -> Geometry:
    """The geometry that the YAML will tell."""
    fan = options.geometry == "fan"
    arc = options.arc or (360.0 if fan else 180.0)
    angles = np.radians(options.start + np.arange(options.views) * arc / options.views)
    angles = angles if options.direction == "counterclockwise" else -angles
    magnification = options.source_to_detector / options.source_to_axis if fan else 1.0
    pitch = options.pitch or round(SEEN * max(shape) * pixel * magnification / options.bins, 4)
    far = (options.source_to_axis, options.source_to_detector) if fan else (None, None)
    curved, flip = options.detector == "curved", options.bins_run == "left"
    geometry = Geometry(
        tuple(angles.tolist()), options.bins, pitch, pixel, *far, curved, options.offset, flip
    )
    geometry.check_image(*shape)
    return geometry


def measured(
    hu: np.ndarray, geometry: Geometry, options: argparse.Namespace, index: int
) -> np.ndarray:
    """What is stored of one slice [views,bins]: counts, or line integrals."""
    mu = options.mu_water * (1 + np.maximum(hu, -1000) / 1000)
    fine = np.kron(mu, np.ones((FINER, FINER)))
    sub = replace(geometry, pixel_size=geometry.pixel_size / FINER)
    rays = []
    for k in range(SUBRAYS):
        shift = ((k + 0.5) / SUBRAYS - 0.5) * (-1 if geometry.flip else 1)
        shifted = replace(sub, offset=sub.offset - shift)
        rays.append(
            np.concatenate(
                [rows_of(shifted, [a], *fine.shape) @ fine.ravel() for a in geometry.angles]
            )
        )
    light = np.exp(-np.stack(rays)).mean(0).reshape(geometry.views, geometry.bins)
    noise = np.random.default_rng([options.seed, index])
    if not options.counts:
        return (-np.log(light) + options.sigma * noise.standard_normal(light.shape)).astype(
            np.float32
        )
    counts = noise.poisson(options.counts * light) + noise.poisson(options.dark, light.shape)
    counts = counts + options.electronic_noise * noise.standard_normal(light.shape)
    counts[:, options.dead] = options.dark
    return counts.astype(
        np.float32 if options.electronic_noise else np.uint32 if counts.max() > 65535 else np.uint16
    )


def main(argv: Sequence[str]) -> int:
    return door.run("simulate_ct.py", argv, lambda: simulate(parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
