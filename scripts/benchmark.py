"""Speed and memory against their limits, one line each; and what a prior is worth as a denoiser.

    python scripts/benchmark.py operators                  # one core, as the limits are stated
    python scripts/benchmark.py operators --only inpainting --threads 2
    python scripts/benchmark.py denoise                    # PSNR by noise level of the shipped pixel priors
    python scripts/benchmark.py denoise --model logs/mine --data data/mine/test.csv   # of your own, on your own scans

Exit codes: 0 all limits met, 1 some missed (marked), 2 a mistake (one line).
"""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import denoising

from data.dataset import ManifestDataset
from data.files import Refusal
from ldm import catalogue, config
from solvers.run.command import Parser

LIMITED = (
    "operators",
    "train",
    "solvers",
    "forms",
    "sample",
    "doors",
    "scale",
)  # each has rows in benchmark_<subject>.py
SHIPPED = ("demo-pixel", "demo-patch")  # priors whose noise is on the image


def main(argv: Sequence[str]) -> int:
    """Measure one subject and print what is found as it comes."""
    parser = Parser("benchmark.py", __doc__)
    subjects = parser.add_subparsers(
        dest="subject", required=True, metavar="SUBJECT", parser_class=Parser
    )
    for name in LIMITED:
        rows = subjects.add_parser(name, about=f"Speed or memory of {name} against its limits.")
        rows.add_argument(
            "--only", default="", metavar="TEXT", help="rows whose function's name holds this"
        )
    table = subjects.add_parser("denoise", about="What priors are worth as denoisers.")
    table.add_argument(
        "--model",
        nargs="+",
        help="names in models/, folders or files; default: the shipped pixel priors",
    )
    table.add_argument(
        "--data", type=Path, metavar="MANIFEST", help="default: eight slices of models/demo-data"
    )
    for subject in subjects.choices.values():
        subject.add_argument("--threads", type=int, default=1, help="default: 1")
    try:
        options = parser.parse_args(argv)
        torch.set_num_threads(options.threads)
        return (
            denoise(options.model, options.data)
            if options.subject == "denoise"
            else limits(options.subject, options.only)
        )
    except (Refusal, OSError) as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 2


def limits(subject: str, only: str) -> int:
    """The rows of a subject beside their limits."""
    chosen = [
        row for row in importlib.import_module(f"benchmark_{subject}").ROWS if only in row.__name__
    ]
    if not chosen:
        raise Refusal(f"no row of {subject} is called {only!r}")
    met = True
    for measure in chosen:
        for row in measure():
            print(row, flush=True)
            met &= row.met
    return 0 if met else 1


def denoise(models: Sequence[str] | None, data: Path | None) -> int:
    """The table of scripts/denoising.py, one row for each prior."""
    names = models or [name for name in SHIPPED if (catalogue.HOME / "models" / name).is_dir()]
    priors = {name: catalogue.prior(config.load([]), name).eval() for name in names}
    channels = {prior.image_shape[0] for prior in priors.values()}
    if len(channels) > 1:
        raise Refusal(
            "--model: one table is of priors of as many channels; these have "
            + ", ".join(map(str, sorted(channels)))
        )
    dataset = ManifestDataset(
        data or catalogue.HOME / "models" / "demo-data" / "test.csv", channels.pop()
    )
    ids = [row.image_id for row in dataset.rows]
    wanted = range(len(ids)) if data else [ids.index(image_id) for image_id in denoising.SLICES]
    images = [dataset[i]["image"][None] for i in wanted]
    sizes = sorted({tuple(image.shape[2:]) for image in images})
    print(f"{len(images)} images of {', '.join(f'{h}×{w}' for h, w in sizes)}; PSNR in dB\n")
    for line in denoising.table(denoising.compare(priors, images)):
        print(line, flush=True)
    missing = denoising.absent()
    if missing:
        packages = ", ".join(dict.fromkeys(package for _, package in missing))
        print(
            f"\nnot measured: {', '.join(name for name, _ in missing)}; pip install {packages} (see their licences)"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
