"""The flags of sample.py. Old names of a flag stand behind its own; those of the published scripts that are refused are in
configs/flags.yaml. Nothing heavy is imported here."""

import argparse
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from data.files import Refusal
from ldm import catalogue
from solvers.run import listing
from solvers.run.command import HOME, Parser, whole
from solvers.run.shares import PATIENCE
from solvers.run.values import centre, factor, hours, index, length, seconds, seeds, span, windowed

DEMO, DEMO_IMAGES = HOME / "models/demo-data/test.csv", 3
PRECISIONS = ("32", "32-true", "bf16-mixed", "16-mixed", "64", "64-true")
OF_IMAGES = ("num_runs", "measurements", "window", "data_root", "manifest", "split")
OF_VOLUMES = ("slice_range", "every", "slices", "slicewise", "coupling")
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
            raise twice(f"--measurements {options.measurements}", "--data-root")
        options.data_root, options.measurements = Path(options.measurements), True
    for one, other in TWICE:
        if getattr(options, one) and getattr(options, other):
            raise twice(said(one), said(other))
    options.num_samples = options.num_samples or 1
    if options.oracle and (options.measurements or not options.num_runs):
        lacks = (
            "of which measurements have none" if options.measurements else "and needs --num-runs"
        )
        raise Refusal(f"--oracle chooses among --num-runs by the truth, {lacks}")
    if word := options.diffusion_config:
        settings = word.endswith((".yaml", ".yml"))
        taken = options.solver if settings else options.model
        if taken:
            means = "--solver (YAML) or --model (weights)"
            raise Refusal(f"--diffusion-config is an old name of {means}; give one of them")
        if settings:
            options.solver = [word]
        else:
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
        alone = "samplers of the prior and solvers of a task do not share a grid"
        raise Refusal(f"{alone}; run them apart")
    needless = (*OF_IMAGES, *OF_VOLUMES) if unconditional else ("seeds",)
    for flag in needless:
        if getattr(options, flag):
            raise Refusal(f"{said(flag)} means nothing with{'out' * unconditional} a task")
    if options.scale and not options.measurements:
        raise Refusal("--scale is for --measurements: other images say their own range")
    demo = not (options.data_root or options.manifest or unconditional)
    if demo and options.measurements:
        needed = "--data-root or --manifest: the files that were measured"
        raise Refusal(f"--measurements needs {needed}")
    if demo:
        options.manifest, options.limit = DEMO, options.limit or DEMO_IMAGES
    if options.save_dir is None:
        only = next(iter(tasks)) if len(tasks) == 1 else "grid"
        options.save_dir = Path("results") / ("demo" if demo else only)
    return demo


def said(name: str) -> str:
    """num_runs -> --num-runs"""
    return "--" + name.replace("_", "-")


def twice(one: str, other: str) -> Refusal:
    return Refusal(f"{one} and {other} say the same thing twice; give one of them")


def look(options: argparse.Namespace) -> None:
    """Raise Refusal for a model, a folder or a file that is not there."""
    if options.model:
        catalogue.weights(options.model)
    for flag in ("data_root", "manifest"):
        if (path := getattr(options, flag)) and not path.exists():
            raise Refusal(f"{path}: no such folder or file")


def parser(about: str) -> Parser:
    made = Parser("sample.py", about)
    _posed(made)
    _images(made)
    _drawn(made)
    _processes(made)
    return made


def _posed(made: Parser) -> None:
    """What is measured, how it is solved, and under which prior."""
    flag = made.flag
    does = "configuration files, merged left to right"
    flag("--base", "FILE", does, nargs="+", default=[])
    does = "what was measured; several make a grid"
    tasks = flag("--task --task-config", "NAME|FILE", does, nargs="+")
    does = "how it is solved; several make a grid; prior: no measurement at all"
    solvers = flag("--solver", "NAME|FILE", does, nargs="+")
    does = f"the prior (default: {catalogue.MODEL})"
    models = flag("--model --ckpt --network", "NAME|FOLDER|FILE", does)
    for action, kind in ((tasks, "tasks"), (solvers, "solvers"), (models, "models")):
        action.completer = listing.names(kind)  # type: ignore[attr-defined]
    does = "print their names, what they need, and one line each"
    flag("--list", None, does, action=listing.List, choices=listing.KINDS)
    does = "what a foreign weight file does not say about itself"
    flag("--model-config --ldm-config --config", "FILE", does)
    flag("--diffusion-config", "FILE", "published scripts: --model, or --solver if it is YAML")


def _images(made: Parser) -> None:
    """Which files are read, and how."""
    flag = made.flag
    flag("--data-root --image-dir", "DIR", "a folder of images, or one image", type=Path)
    does = "DIR/NAME/, DIR/NAME.csv, DIR/NAME_images.txt, or the manifest's split column"
    flag("--split", "NAME", does)
    flag("--manifest", "FILE", type=Path)
    does = "the files (FILE: instead of --data-root) are what was measured; there is no truth"
    flag("--measurements", "FILE", does, nargs="?", const=True, default=False)
    does = "of results of a scanner's file (--task mri: nifti if not said; ct: dicom)"
    flag("--output-format", None, does, choices=("nifti", "dicom"))
    does = "--task ct: where the axis is seen, from the middle of the detector"
    flag("--center", "auto|BINS", does, type=centre)
    does = "stored values (CT: HU) that are black and white"
    flag("--window", "LOW:HIGH|header|full|pLOW:pHIGH", does, type=windowed)
    does = "with --measurements: y times this; results are divided by it"
    flag("--scale", "auto|NUMBER", does, type=factor)


def _drawn(made: Parser) -> None:
    """How many draws of which images, and what is written of them."""
    flag, switch = made.flag, made.switch
    flag("--save-dir --outdir --save-root", "DIR", type=Path)
    flag("--num-samples", "K", "posterior draws per image: mean, std and interval", type=whole)
    does = "draws per image of which the one of smallest residual is kept"
    flag("--num-runs", "K", does, type=whole)
    does = "with --num-runs: keep the draw nearest to the truth; records say so (kept_by)"
    switch("--oracle", does)
    flag("--steps --ddim-steps", "N", "noise levels of the solver", type=whole)
    flag("--ddim-eta", "E", "solver.params.eta=E", type=float)
    flag("--batch-size --batch", "N", "images times draws in one network call", type=whole)
    flag("--start", "I", type=index, default=0)
    flag("--limit", "N", type=whole)
    does = "of each volume the slices A up to, not including, B, counted from 0"
    flag("--slice-range", "A:B", does, type=span)
    flag("--every", "N", "of each volume every N-th slice, for a first look", type=whole)
    does = "of volumes: denoised in turn, or all at every level"
    flag("--planes", None, does, choices=("turns", "all"), default="turns")
    does = "of volumes: how far the noise of draws is shared"
    flag("--coupling", "MM", does, type=length, default=0.0)
    switch("--slicewise", "restore the slices of volumes one by one")
    does = "keep a volume's slices as files of their own, with their panels, in slices/"
    switch("--slices", does)
    flag("--seed", "N", type=int, default=0)
    flag("--seeds", "A-B,C", "with --solver prior: one image each", type=seeds)
    switch("--overwrite", "replace results of another configuration")
    switch("--dry-run", "check everything and estimate seconds and memory")
    switch("--zoom", "panels show the region of the largest error enlarged")
    switch("--verify", "compare earlier results with the digests in their records, and mend them")
    switch("--keep-patient", "leave the patient's data in DICOM results")


def _processes(made: Parser) -> None:
    """Where the work is done, by how many, for how long, and what they may read."""
    flag, switch = made.flag, made.switch
    does = "of the diffusion network"
    flag("--precision", None, does, choices=PRECISIONS, default="32-true")
    flag("--devices", "N", type=whole, default=1)
    flag("--num-nodes", "N", type=whole, default=1)
    flag("--accelerator", None, choices=("auto", "cpu", "gpu", "mps"), default="auto")
    switch("--split-volumes", "of several processes: share the slices of each volume")
    switch("--join", "work on --save-dir together with other processes, wherever they run")
    does = "seconds after which a silent process's images are free"
    flag("--lease", "S", does, type=seconds, default=PATIENCE)
    does = "stop after about so many images of this process; a restart goes on"
    flag("--max-images", "N", does, type=whole)
    does = "begin no batch after so many hours; a restart goes on"
    flag("--max-hours", "H", does, type=hours)
    does = "processes that read ahead, with a thread that writes behind (2 on a GPU, else 0)"
    flag("--workers", "N", does, type=index)
    does = "json: one line an event on stderr"
    flag("--log", None, does, choices=("text", "json"), default="text")
    switch("--compile", "torch.compile the network")
    does = "let targets come from modules of your own"
    flag("--plugin", "MODULE", does, nargs="+", default=[])
    switch("--allow-env", "let --base files ask for ${oc.env:NAME} and the like")
    switch("--print-config", "show the merged configuration and stop")
