"""Draw a sheet: every solver on one held-out scan at the same number of network calls, beside the truth.

    python scripts/solver_gallery.py                                  # writes solvers.png; a minute of one core
    python scripts/solver_gallery.py --task super_resolution --calls 20 --output /tmp/sheet.png

Exit codes: 0 done, 2 a mistake (one line).
"""

import argparse
import sys
import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import PIL.Image
import PIL.PngImagePlugin

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import palimpsest as P
from data import formats
from data.files import printable
from data.pictures import beside, tile
from data.ranges import to_unit
from solvers.run import door
from solvers.run.command import HOME, Parser, whole

SIDE, ACROSS = (
    192,
    4,
)  # pixels of a picture (those of the scan, so that none is repeated), pictures in a row
SCAN = HOME / "models/demo-data/brain2-ax-012.png"
CALLS = {  # solver -> the prior it is shown with, calls of the network a step
    "baseline": ("demo-pixel", 0), "tv": ("demo-pixel", 0), "pnp": ("demo-pixel", 1), "daps": ("demo-pixel", 1),
    "padis": ("demo-patch", 1), "padis_pc": ("demo-patch", 2), "codps": ("demo-pixel", 1), "codps_plus": ("demo-pixel", 1),
    "dps": ("demo-pixel", 1), "resample": ("demo-pixel", 1), "resample_fast": ("demo-latent", 1), "psld": ("demo-latent", 1),
}  # fmt: skip


def main(argv: Sequence[str]) -> int:
    parser = Parser("solver_gallery.py", __doc__)
    add = parser.add_argument
    add("--scan", type=Path, default=SCAN)
    add("--task", default="mri_x4")
    add(
        "--side",
        type=whole,
        default=SIDE,
        metavar="PIXELS",
        help="of the square in the middle of the scan that is restored",
    )
    add("--calls", type=whole, default=10, metavar="N", help="network calls of each solver")
    add("--output", type=Path, default=Path("solvers.png"))
    return door.run(parser.prog, argv, lambda: write(parser.parse_args(argv)))


def write(options: argparse.Namespace) -> None:
    tiles, notes = list[PIL.Image.Image](), PIL.PngImagePlugin.PngInfo()
    pixels, side = formats.read(options.scan).pixels[0], options.side
    top, left = ((n - side) // 2 for n in pixels.shape)
    scan = pixels[max(top, 0) :, max(left, 0) :][:side, :side].numpy()
    window, loaded = (float(scan.min()), float(scan.max())), lru_cache(P.load)
    for solver, (prior, calls) in CALLS.items():
        steps = {"steps": max(options.calls // calls, 1)} if calls else {}
        with warnings.catch_warnings(action="ignore"):
            made: Any = P.restore(
                scan, loaded(prior), solver=solver, task=options.task, range=window, **steps
            )
        outcome, record = made.middle, made.record
        if not tiles:
            tiles.append(tile("truth", to_unit(outcome.truth), 0, 1, SIDE))
        notes.add_text(solver, f"{record['psnr']:.2f} dB")
        words = f"{solver}, {prior}" if calls else solver
        tiles.append(tile(f"{words}  {record['psnr']:.1f} dB", to_unit(outcome.image), 0, 1, SIDE))
        print(
            printable(
                f"{solver} {prior} {record['psnr']:.2f} dB, {record['nfe']} + {record['vjps']} calls"
            ),
            flush=True,
        )
    rows = [beside(tiles[i : i + ACROSS]) for i in range(0, len(tiles), ACROSS)]
    sheet = PIL.Image.new(
        "L", (max(row.width for row in rows), sum(row.height for row in rows)), "white"
    )
    for i, row in enumerate(rows):
        sheet.paste(row, (0, i * row.height))
    sheet.save(options.output, optimize=True, pnginfo=notes)
    print(options.output)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
