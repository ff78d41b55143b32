"""Export a trained prior as a model folder with its card: what it was trained on, how long, and what it does on held-out people.

    python scripts/publish_prior.py logs/demo/pixel/checkpoints/last.ckpt models/demo-pixel --runs logs/demo/pixel
        --train data/demo/train.csv --validation data/demo/val.csv --test data/demo/test.csv --spectra data/demo/held_out.csv
        --cubes S1 --ct -1000 400
    python scripts/publish_prior.py logs/demo/latent/checkpoints/last.ckpt models/demo-latent
        --runs logs/demo/vq logs/demo/latent --train data/demo/train.csv --validation data/demo/val.csv
        --test data/demo/test.csv --ct -1000 400 --note "Half an hour on a CPU."

Writes config.yaml, model.safetensors (float16), README.md, samples.png, reconstructions.png and losses.svg into a new folder.
Exit codes: 0 done, 2 a mistake in what was asked (one line says which).
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import denoising
import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from prior_figures import (
    Losses,
    best_average,
    by_subject,
    figures,
    held_out,
    history,
    training,
    with_coherence,
    with_first_stage,
    with_spectra,
)

from data import manifest
from data.files import Refusal
from data.ranges import to_report
from data.seeding import Noise
from ldm import checkpoints
from ldm.checkpoints.reading import weights
from ldm.denoiser import Prior
from ldm.latent import LatentPrior
from ldm.sampling import Heun
from solvers.run import door, plots
from solvers.run.command import Parser

BESIDE = (
    "The same slices, all together, beside denoisers that know no data, and processor seconds for one of them "
    "(`docs/train.md` says how to read it):"
)
LOSSES, KEY = (760, 300), 16  # width and height of the picture, and of the names above the curves


def save(images: Tensor, path: Path, columns: int) -> None:
    grid = (make_grid(to_report(images), nrow=columns)[0] * 255).round().byte()
    Image.fromarray(grid.numpy()).save(path, optimize=True)


def drawn(losses: Losses) -> str:
    """The training losses of all runs as an SVG file."""
    below = plots.drawing(losses, "step", "loss", None, "y", (LOSSES[0], LOSSES[1] - KEY))
    parts = [*plots.key(losses), f"<g transform='translate(0 {KEY})'>", *below, "</g>"]
    return plots.alone(parts, LOSSES)


def card(
    folder: Path, note: str, prior: Prior, trained: Counter[str], lines: dict[str, list[str]]
) -> str:
    """README.md; `lines`: what is said of the runs, the table of figures, the learning curve."""
    size = (folder / "model.safetensors").stat().st_size / 1e6
    text = [
        f"# {folder.name}",
        "",
        note,
        "",
        f"* {prior.kind} prior{' of patches' * prior.patched}; images {list(prior.image_shape)}, state {list(prior.shape)}",
        f"* {sum(p.numel() for p in prior.parameters()):,} parameters, float16, {size:.1f} MB",
        "* trained on: "
        + ", ".join(f"{name} ({n} slices)" for name, n in sorted(trained.items()))
        + "; nobody else",
        *(
            f"* {name}: {low:g} was black and {high:g} white"
            for name, (low, high) in prior.contracts.items()
        ),
        *(f"* {line}" for line in lines["runs"]),
        "",
        "## Held-out subjects",
        "",
        "PSNR in dB on images in [0, 1], mean over slices; never used in training. `n` slices of each, evenly spread.",
        "",
        *lines["table"],
        *(
            ["", "The learning curve: the same slices, all together, at earlier steps.", ""]
            if lines["history"]
            else []
        ),
        *lines["history"],
        "",
        "## Samples" + (" and reconstructions" if isinstance(prior, LatentPrior) else ""),
        "",
        "![unconditional samples, not chosen](samples.png)",
        *(
            ["", "![held-out slices above, the autoencoder's below](reconstructions.png)"]
            if isinstance(prior, LatentPrior)
            else []
        ),
        *(["", "![training loss](losses.svg)"] if (folder / "losses.svg").is_file() else []),
        "",
        "## Limits",
        "",
        "A handful of people, no patients beyond them: this shows that the program works, not what a prior can be. Research use, "
        "not for diagnosis. Go on from the run folder with `main.py ... --resume DIR`, or start from these weights with `--init "
        + folder.name
        + "`.",
    ]
    return "\n".join(text) + "\n"


def publish_whole(options: argparse.Namespace) -> None:
    """`publish` beside the folder, which appears with all that belongs in it or not at all."""
    if (folder := options.folder).exists():
        raise Refusal(f"{folder}: exists; an export needs a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as beside:
        options.folder = Path(beside, folder.name)
        publish(options)
        options.folder.rename(folder)


def publish(options: argparse.Namespace) -> None:
    average, chosen = (
        best_average(options.checkpoint, options.validation) if options.validation else (True, [])
    )
    described = checkpoints.describe(options.checkpoint, ema=average)
    if options.spectra is not None:
        with torch.no_grad():
            described = with_spectra(described, options.spectra)
    if options.cubes:
        with torch.no_grad():
            described = with_coherence(described, options.train, options.cubes)
    if "first_stage" in described.node["params"]:
        if options.validation is None:
            raise Refusal(
                "a latent prior needs --validation, a manifest on which the error of its autoencoder is measured"
            )
        described = with_first_stage(described, options.first_stage, options.validation)
    subjects, images = held_out(
        options.test
    )  # this and the next lines before anything is written: they may find a mistake
    trained = Counter(row.subject for row in manifest.read(options.train))
    steps = weights(options.checkpoint)["global_step"]
    for run in options.runs:
        if not (run / "tensorboard").is_dir():
            raise Refusal(f"--runs: {run}: no run of main.py, which writes {run}/tensorboard")
    if options.ct is not None:
        described = replace(described, contracts={"CT": tuple(options.ct), **described.contracts})
    checkpoints.export(described, options.folder, half=True)
    prior = checkpoints.load(options.folder)
    with torch.no_grad():
        found, decoded = figures(prior, images)
        curve = history(options.earlier, images)
        noise = Noise([f"sample {i}" for i in range(options.samples)], "noise")
        *_, last = Heun(options.steps)(prior, noise, torch.zeros(1))
        save(prior.to_image(last.x0), options.folder / "samples.png", options.samples)
    if decoded is not None:
        show = [subjects.index(s) for s in dict.fromkeys(subjects)]
        save(
            torch.cat([images[show], decoded[show]]),
            options.folder / "reconstructions.png",
            len(show),
        )
    table = by_subject(subjects, found)
    with torch.no_grad():
        table += [
            "",
            BESIDE,
            "",
            *denoising.table(
                denoising.compare({options.folder.name: prior}, list(images[:, None]))
            ),
        ]
    losses, runs = training(options.runs, steps)
    if losses:
        (options.folder / "losses.svg").write_text(drawn(losses), "utf-8")
    lines = {"runs": [*runs, *chosen], "table": table, "history": curve}
    text = card(options.folder, options.note, prior, trained, lines)
    (options.folder / "README.md").write_text(text, "utf-8")
    print("\n".join(table))


def main(argv: Sequence[str]) -> int:
    parser = Parser("publish_prior.py", __doc__)
    parser.add_argument("checkpoint", type=Path, help="last.ckpt of a run")
    parser.add_argument("folder", type=Path, help="new model folder")
    parser.add_argument(
        "--runs",
        type=Path,
        nargs="+",
        required=True,
        help="folders of the runs it came from, in order",
    )
    parser.add_argument("--train", type=Path, required=True, help="manifest it was trained on")
    parser.add_argument(
        "--test", type=Path, required=True, help="manifest of subjects it has never seen"
    )
    parser.add_argument(
        "--validation",
        type=Path,
        help="manifest that chooses the average and measures a latent prior's error",
    )
    parser.add_argument(
        "--spectra",
        type=Path,
        help="manifest on which a pixel prior's errors are measured by frequency",
    )
    parser.add_argument(
        "--cubes",
        nargs="+",
        default=[],
        metavar="SUBJECT",
        help="subjects trained on, in slices of cubic voxels, on which a pixel prior's errors in neighbours are compared",
    )
    parser.add_argument(
        "--earlier",
        type=Path,
        nargs="+",
        default=[],
        help="checkpoints of the run, for the learning curve",
    )
    parser.add_argument(
        "--first-stage",
        type=Path,
        help="checkpoint whose decoder replaces the one trained with (same latents)",
    )
    parser.add_argument(
        "--ct",
        type=float,
        nargs=2,
        metavar="HU",
        help="black and white of CT in training, where there was any (the demo's: -1000 400)",
    )
    parser.add_argument("--note", default="", help="first paragraph of the card")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument(
        "--steps", type=int, default=18, help="of the Heun sampler behind samples.png"
    )
    return door.run(parser.prog, argv, lambda: publish_whole(parser.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
