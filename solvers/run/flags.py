"""The flags of sample.py. Old names of a flag stand behind its own; those of the published scripts that are refused are in
configs/flags.yaml. Nothing heavy is imported here."""

import argparse
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from data.files import Refusal
from data.window import Window, window
from ldm import catalogue
from solvers.run import listing
from solvers.run.command import HOME, Parser, whole
from solvers.run.shares import PATIENCE

DEMO, DEMO_IMAGES = HOME / "models/demo-data/test.csv", 3
PRECISIONS = ("32", "32-true", "bf16-mixed", "16-mixed", "64", "64-true")
OF_IMAGES = ("num_runs", "measurements", "window", "data_root", "manifest", "split")
OF_VOLUMES = ("slice_range", "every", "slices", "slicewise", "coupling")
MOST = 10_000_000  # seeds in one call
TWICE = (("data_root", "manifest"), ("num_runs", "num_samples"))  # pairs of which one says all


def parse(argv: Sequence[str], about: str) -> tuple[argparse.Namespace, list[str], list[str]]:
    """Flags, key=value overrides, and the words that are neither. about: what --help begins with.

    Flags that are short for an override stand before the overrides, which may contradict them; `options.command` is the line.
    Raises Refusal for wrong values, for pairs that say the same twice, and for flags that `Parser.refuse` knows.
    """
    ours = parser(about)
    changes = ours.overrides(argv)
    ours.refuse(argv)
    options, rest = ours.parse_known_args([word for word in argv if word not in changes])
    if isinstance(options.measurements, str):
        if options.data_root:
            raise Refusal(
                f"--measurements {options.measurements} and --data-root say the same thing twice; give one of them"
            )
        options.data_root, options.measurements = Path(options.measurements), True
    for one, other in TWICE:
        if getattr(options, one) and getattr(options, other):
            one, other = (f"--{name.replace('_', '-')}" for name in (one, other))
            raise Refusal(f"{one} and {other} say the same thing twice; give one of them")
    options.num_samples = options.num_samples or 1
    if options.oracle and (options.measurements or not options.num_runs):
        raise Refusal(
            "--oracle chooses among --num-runs by the truth, of which measurements have none"
        )
    word = options.diffusion_config
    if word and (options.solver if word.endswith((".yaml", ".yml")) else options.model):
        raise Refusal(
            "--diffusion-config is an old name of --solver (YAML) or --model (weights); give one of them"
        )
    if word and word.endswith((".yaml", ".yml")):
        options.solver = [word]
    elif word:
        options.model = word
    options.command = shlex.join(["python", ours.prog, *argv])
    short = {"solver.params.steps": options.steps, "solver.params.eta": options.ddim_eta}
    short["operator.params.center"] = options.center
    meant = [f"{key}={value}" for key, value in short.items() if value is not None]
    return options, [*meant, *changes], rest


def complete(options: argparse.Namespace, tasks: Mapping[str, bool]) -> bool:
    """Fill in what was not said. Without any data it is the demo: whether it is, is what is returned.

    tasks: the cells of the grid, and whether each has a task; without one, the prior itself is sampled. Raises Refusal for
    flags that mean nothing with what is asked for.
    """
    unconditional = not any(tasks.values())
    if not unconditional and not all(tasks.values()):
        raise Refusal(
            "samplers of the prior and solvers of a task do not share a grid; run them apart"
        )
    needless = (*OF_IMAGES, *OF_VOLUMES) if unconditional else ("seeds",)
    for flag in needless:
        if getattr(options, flag):
            raise Refusal(
                f"--{flag.replace('_', '-')} means nothing {'without' if unconditional else 'with'} a task"
            )
    if options.scale and not options.measurements:
        raise Refusal("--scale is for --measurements: other images say their own range")
    demo = not (options.data_root or options.manifest or unconditional)
    if demo and options.measurements:
        raise Refusal(
            "--measurements needs --data-root or --manifest: the files that were measured"
        )
    if demo:
        options.manifest, options.limit = DEMO, options.limit or DEMO_IMAGES
    if options.save_dir is None:
        options.save_dir = Path("results") / (
            "demo" if demo else "grid" if len(tasks) > 1 else next(iter(tasks))
        )
    return demo


def look(options: argparse.Namespace) -> None:
    """Raise Refusal for a model, a folder or a file that is not there."""
    if options.model:
        catalogue.weights(options.model)
    for flag in ("data_root", "manifest"):
        if (path := getattr(options, flag)) and not path.exists():
            raise Refusal(f"{path}: no such folder or file")


def parser(about: str) -> Parser:
    made = Parser("sample.py", about)
    add = made.add_argument
    add(
        "--base",
        nargs="+",
        default=[],
        metavar="FILE",
        help="configuration files, merged left to right",
    )
    tasks = add(
        "--task",
        "--task-config",
        nargs="+",
        metavar="NAME|FILE",
        help="what was measured; several make a grid",
    )
    how = "how it is solved; several make a grid; prior: no measurement at all"
    solvers = add("--solver", nargs="+", metavar="NAME|FILE", help=how)
    models = add(
        "--model",
        "--ckpt",
        "--network",
        metavar="NAME|FOLDER|FILE",
        help=f"the prior (default: {catalogue.MODEL})",
    )
    for action, kind in ((tasks, "tasks"), (solvers, "solvers"), (models, "models")):
        action.completer = listing.names(kind)  # type: ignore[attr-defined]
    add(
        "--list",
        action=listing.List,
        choices=listing.KINDS,
        help="print their names, what they need, and one line each",
    )
    add(
        "--model-config",
        "--ldm-config",
        "--config",
        metavar="FILE",
        help="what a foreign weight file does not say about itself",
    )
    add(
        "--diffusion-config",
        metavar="FILE",
        help="published scripts: --model, or --solver if it is YAML",
    )
    add(
        "--data-root",
        "--image-dir",
        type=Path,
        metavar="DIR",
        help="a folder of images, or one image",
    )
    add(
        "--split",
        metavar="NAME",
        help="DIR/NAME/, DIR/NAME.csv, DIR/NAME_images.txt, or the manifest's split column",
    )
    add("--manifest", type=Path, metavar="FILE")
    measured = "the files (FILE: instead of --data-root) are what was measured; there is no truth"
    add("--measurements", nargs="?", const=True, default=False, metavar="FILE", help=measured)
    add(
        "--output-format",
        choices=("nifti", "dicom"),
        help="of results of a scanner's file (--task mri: nifti if not said; ct: dicom)",
    )
    axis = "--task ct: where the axis is seen, from the middle of the detector"
    add("--center", type=centre, metavar="auto|BINS", help=axis)
    add(
        "--window",
        type=windowed,
        metavar="LOW:HIGH|header|full|pLOW:pHIGH",
        help="stored values (CT: HU) that are black and white",
    )
    add(
        "--scale",
        type=factor,
        metavar="auto|NUMBER",
        help="with --measurements: y times this; results are divided by it",
    )
    add("--save-dir", "--outdir", "--save-root", type=Path, metavar="DIR")
    add(
        "--num-samples",
        type=whole,
        metavar="K",
        help="posterior draws per image: mean, std and interval",
    )
    add(
        "--num-runs",
        type=whole,
        metavar="K",
        help="draws per image of which the one of smallest residual is kept",
    )
    add(
        "--oracle",
        action="store_true",
        help="with --num-runs: keep the draw nearest to the truth; records say so (kept_by)",
    )
    add("--steps", "--ddim-steps", type=whole, metavar="N", help="noise levels of the solver")
    add("--ddim-eta", type=float, metavar="E", help="solver.params.eta=E")
    add(
        "--batch-size",
        "--batch",
        type=whole,
        metavar="N",
        help="images times draws in one network call",
    )
    add("--start", type=index, default=0, metavar="I")
    add("--limit", type=whole, metavar="N")
    add(
        "--slice-range",
        type=span,
        metavar="A:B",
        help="of each volume the slices A up to, not including, B, counted from 0",
    )
    add(
        "--every", type=whole, metavar="N", help="of each volume every N-th slice, for a first look"
    )
    add(
        "--planes",
        choices=("turns", "all"),
        default="turns",
        help="of volumes: denoised in turn, or all at every level",
    )
    add(
        "--coupling",
        type=length,
        default=0.0,
        metavar="MM",
        help="of volumes: how far the noise of draws is shared",
    )
    add("--slicewise", action="store_true", help="restore the slices of volumes one by one")
    add(
        "--slices",
        action="store_true",
        help="keep a volume's slices as files of their own, with their panels, in slices/",
    )
    add("--seed", type=int, default=0, metavar="N")
    add("--seeds", type=seeds, metavar="A-B,C", help="with --solver prior: one image each")
    add("--overwrite", action="store_true", help="replace results of another configuration")
    add("--dry-run", action="store_true", help="check everything and estimate seconds and memory")
    add("--zoom", action="store_true", help="panels show the region of the largest error enlarged")
    add(
        "--verify",
        action="store_true",
        help="compare earlier results with the digests in their records, and mend them",
    )
    add("--keep-patient", action="store_true", help="leave the patient's data in DICOM results")
    add("--precision", choices=PRECISIONS, default="32-true", help="of the diffusion network")
    add("--devices", type=whole, default=1, metavar="N")
    add("--num-nodes", type=whole, default=1, metavar="N")
    add("--accelerator", choices=("auto", "cpu", "gpu", "mps"), default="auto")
    add(
        "--join",
        action="store_true",
        help="work on --save-dir together with other processes, wherever they run",
    )
    add(
        "--lease",
        type=seconds,
        default=PATIENCE,
        metavar="S",
        help="seconds after which a silent process's images are free",
    )
    add(
        "--max-images",
        type=whole,
        metavar="N",
        help="stop after about so many images of this process; a restart goes on",
    )
    add(
        "--max-hours",
        type=hours,
        metavar="H",
        help="begin no batch after so many hours; a restart goes on",
    )
    ahead = "processes that read ahead, with a thread that writes behind (2 on a GPU, else 0)"
    add("--workers", type=index, metavar="N", help=ahead)
    add("--log", choices=("text", "json"), default="text", help="json: one line an event on stderr")
    add("--compile", action="store_true", help="torch.compile the network")
    add(
        "--plugin",
        nargs="+",
        default=[],
        metavar="MODULE",
        help="let targets come from modules of your own",
    )
    add(
        "--allow-env",
        action="store_true",
        help="let --base files ask for ${oc.env:NAME} and the like",
    )
    add("--print-config", action="store_true", help="show the merged configuration and stop")
    return made


def windowed(word: str) -> Window:
    try:
        return window(word)
    except Refusal as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def seconds(word: str) -> float:
    """A lease: from a second to a day."""
    return between(word, 1, 86400)


def hours(word: str) -> float:
    return between(word, 1e-4, 1e5)


def between(word: str, least: float, most: float) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"{word!r} is not a number from {least:g} to {most:g}")
    return value


def factor(word: str) -> float | str:
    """auto, or a number > 0"""
    try:
        value = float(word)
    except ValueError:
        value = 0.0
    if word != "auto" and not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{word!r} is neither auto nor a number > 0")
    return "auto" if word == "auto" else value


def centre(word: str) -> float | str:
    """auto, or a number of bins"""
    try:
        return word if word == "auto" else float(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{word!r} is neither auto nor a number of bins") from None


def index(word: str) -> int:
    return 0 if word == "0" else whole(word)


def length(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{word!r} is not a number of mm from 0")
    return value


def span(word: str) -> tuple[int, int]:
    """40:60 -> (40, 60)"""
    low, colon, high = word.partition(":")
    if not (colon and (low or "0").isdigit() and high.isdigit() and int(low or 0) < int(high)):
        raise argparse.ArgumentTypeError(
            f"{word!r} is not of the form 40:60, from the first to behind the last slice"
        )
    return int(low or 0), int(high)


def seeds(word: str) -> list[int]:
    """0-3,7 -> [0, 1, 2, 3, 7]"""
    try:
        ends = [
            (int(first), int(last if dash else first))
            for first, dash, last in (w.partition("-") for w in word.split(","))
        ]
    except ValueError:
        ends = []
    few = sum(last - first + 1 for first, last in ends) <= MOST
    found = [seed for first, last in ends for seed in range(first, last + 1)] if few else []
    if not found or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(
            f"{word!r} is not of the form 0-49999 or 1,5,9-12, each once, at most {MOST:,}"
        )
    return found
