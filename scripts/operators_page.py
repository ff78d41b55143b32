"""Write docs/operators.md: every operator's formula, how it is inverted, and a picture of its measurement of one real scan.

    python scripts/operators_page.py                     # the shipped scan; some seconds
    python scripts/operators_page.py --scan my-slice.dcm --output /tmp/page

Exit codes: 0 done, 2 a mistake (one line).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from operators_listed import ENTRIES, Entry
from PIL import Image, ImageDraw
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data import formats
from data.pictures import beside, tile
from data.ranges import percentiles, to_report, to_unit
from data.seeding import Noise
from ldm.config import build, load
from solvers.operators import Inpainting
from solvers.operators.base import Operator
from solvers.problem import Problem, measure
from solvers.run import door
from solvers.run.command import Parser

HOME = Path(__file__).resolve().parents[1]
SIDE = 144  # pixels of a picture


HEAD = """# Operators

Written by `scripts/operators_page.py`; do not edit by hand.

Images x are in [−1, 1]. Noise is added to y where something is measured: `Gaussian(sigma_y)`, `Poisson(rate)` or `Clean`.
CT, MRI and photon counts see u = (x + 1) / 2; their constant part is moved into y, so that A stays linear in x.

`Gaussian(null)` estimates sigma_y for each image from its measurement: exactly from one coil's k-space of real images, which
holds entries of noise alone; else from the finest differences, which structure makes too large, most where noise is weakest. Of
the shipped scans at the tasks' noise, sinograms come out 2 to 11 % too large, k-space of several coils 1.6 to 1.8 times, of
complex images 3 to 4 times. Scattered points of k-space (radial, Poisson-disc) are refused there.

Every linear operator has `forward`, `adjoint` (exact), `solve(r, s2, v)` = (s2 I + v A Aᵀ)⁻¹ r, `norm`; all have `linearize`.
`tests/operator_list.py` is the list that the battery in `tests/test_operators.py` runs over.

Each picture: scan, measurement with the task's noise, and the cheap classical answer that results are compared with (bicubic
interpolation, the blurred image itself, Laplace filling, filtered backprojection, zero filling) where there is one. Images
share one grey scale; sinograms have their own, and spectra a logarithmic one.
"""


def main(argv: Sequence[str]) -> int:
    parser = Parser("operators_page.py", __doc__)
    parser.add_argument("--scan", type=Path, default=HOME / "models/demo-data/brain2-ax-008.png")
    parser.add_argument(
        "--output",
        type=Path,
        default=HOME / "docs",
        help="folder of operators.md and operators/*.png",
    )
    return door.run(parser.prog, argv, lambda: write(parser.parse_args(argv)))


def write(arguments: argparse.Namespace) -> None:
    """Measure one scan with every task and write the page."""
    pixels = formats.read(arguments.scan).pixels
    x = percentiles(pixels, 0, 99.9).to_model(pixels)[None].float()
    (arguments.output / "operators").mkdir(parents=True, exist_ok=True)
    sections = [section(entry, x, arguments.output / "operators") for entry in ENTRIES]
    (arguments.output / "operators.md").write_text("\n".join([HEAD, *sections]), encoding="utf-8")


def section(entry: Entry, x: Tensor, folder: Path) -> str:
    """The text of one operator; its picture is written into the folder."""
    problem = posed(entry, x)
    baseline = problem.operator.baseline(problem.y, tuple(x.shape[1:]))
    tiles = [
        tile("scan", to_report(x[0]), 0, 1, SIDE),
        tile("measurement", *visible(problem), SIDE),
    ]
    tiles += (
        [] if baseline is None else [tile("classical answer", to_report(baseline[0]), 0, 1, SIDE)]
    )
    beside(tiles).quantize(24).save(folder / f"{entry.task}.png", optimize=True)
    node = load([HOME / "configs" / "tasks" / f"{entry.task}.yaml"])["operator"]
    settings = ", ".join(f"{key}={value}" for key, value in (node.get("params") or {}).items())
    name = node["target"].rpartition(".")[2]
    shape = "×".join(map(str, problem.y.shape[1:]))
    return f"""## {entry.title}

{entry.formula}

* `{name}({settings})`, task `{entry.task}`; y of a {"×".join(map(str, x.shape[1:]))} image: {shape}
* solve: {entry.inverse}

![{entry.title}](operators/{entry.task}.png)
"""


def posed(entry: Entry, x: Tensor) -> Problem:
    """The scan as the task measures it."""
    config = load([HOME / "configs" / "tasks" / f"{entry.task}.yaml"])
    operator: Operator = (
        Inpainting(scratches(x)) if entry.task == "inpainting_mask" else build(config["operator"])
    )
    noise = Noise(["operators page"], "noise")
    return measure(operator.draw(tuple(x.shape[1:]), noise), x, build(config["likelihood"]), noise)


def scratches(x: Tensor) -> Tensor:
    """An example of a free-form mask [H,W]: a few thick strokes are not measured."""
    h, w = x.shape[-2:]
    picture = Image.new("L", (w, h), 1)
    for stroke in (
        ((0.2, 0.3), (0.5, 0.45), (0.8, 0.2)),
        ((0.3, 0.8), (0.4, 0.5), (0.7, 0.75)),
        ((0.1, 0.6), (0.35, 0.65)),
    ):
        ImageDraw.Draw(picture).line(
            [(a * w, b * h) for a, b in stroke], fill=0, width=w // 20, joint="curve"
        )
    return torch.tensor(list(picture.tobytes())).reshape(h, w)


def visible(problem: Problem) -> tuple[Tensor, float, float]:
    """One channel of y and what is black and white: image-like as it is, sinograms stretched, spectra on a log scale."""
    y = problem.stored()
    if y.ndim == 3:  # projections without an order: as many as fill a square
        side = int(y.shape[-1] ** 0.5)
        y = y[..., : side**2].reshape(1, 1, side, side)
    elif y.shape[1] == problem.y.shape[1] == 1 and float(y.abs().max()) < 2.5:
        return to_unit(y[0, :1]), 0, 1
    axes = problem.operator.reading
    complex_pairs = axes is not None and axes.spectral and y.shape[1] % 2 == 0
    y = y[0].square().sum(0, keepdim=True).sqrt() if complex_pairs else y[0, :1]
    peaked = float(y.max()) > 30 * float(y.abs().mean())
    if complex_pairs or peaked:  # a spectrum: its centre would be all one sees
        y = (1 + y.abs() / y.abs().mean()).log()
    return y, float(y.min()), float(y.max())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
