"""Write report.html (self-contained) of one or more folders of results or training runs, and print their numbers.

    python scripts/report.py results/demo [results/other ...]
    python scripts/report.py logs/medical/mine          # loss curves, held-out PSNR by noise level, samples, reconstructions

Exit codes: 0 done, 2 a folder that holds neither.
"""

import base64
import html
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data.files import Refusal
from solvers.run import door, page, plots, report
from solvers.run.command import Parser

WANTED = ("summary.json", "records.jsonl", "config.yaml")


def main(argv: Sequence[str]) -> int:
    parser = Parser("report.py", __doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    return door.run(parser.prog, argv, lambda: write(parser.parse_args(argv).folders))


def write(folders: Sequence[Path]) -> None:
    for folder in [folder for folder in folders if (folder / "tensorboard").is_dir()]:
        print(of_training(folder))
    folders = [folder for folder in folders if not (folder / "tensorboard").is_dir()]
    for folder in folders:
        missing = [name for name in WANTED if not (folder / name).is_file()]
        if missing:
            raise Refusal(
                f"{folder}: holds no {', '.join(missing)}; give a folder that sample.py wrote"
            )
        try:
            print(report.write(folder))
        except (
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
        ) as error:  # of files that anybody may have written
            raise Refusal(
                f"{folder}: what it holds was not written by sample.py ({error!r})"
            ) from error
    if folders:
        print(
            report.text(
                {
                    str(folder): json.loads((folder / "summary.json").read_text())
                    for folder in folders
                }
            )
        )


def of_training(folder: Path) -> Path:
    """report.html of a training run, from what it wrote for TensorBoard."""
    logged = EventAccumulator(str(folder / "tensorboard"), {"scalars": 0, "images": 1})
    logged.Reload()
    curves = {
        tag: [(e.step, e.value) for e in logged.Scalars(tag)]
        for tag in logged.Tags()["scalars"]
        if tag != "epoch"
    }
    if not curves:
        raise Refusal(
            f"{folder}: its tensorboard/ holds no numbers yet; train.log_every_n_steps says when they come"
        )
    groups: dict[str, dict[str, list]] = {}
    for tag, points in curves.items():
        groups.setdefault(group(tag), {})[name(tag)] = points
    drawn = []
    for title in sorted(groups, key=ORDER.index):
        lines = {name: tuple(zip(*points)) for name, points in groups[title].items()}
        known = title in ("loss", "held-out loss by level")
        log = "y" * (known and all(v > 0 for _, ys in lines.values() for v in ys))
        what = next(iter(lines)) if len(lines) == 1 else title
        drawn.append(f"<h2>{title}</h2>{plots.curves(lines, 'step', what, log=log)}")
        if title == "held-out PSNR by level":
            ends = {float(name.split()[-1]): ys[-1] for name, (_, ys) in lines.items()}
            last = {"last": (list(ends), list(ends.values()))}
            curve = plots.curves(last, "sigma", "PSNR dB", log="x")
            drawn.append(f"<h2>held-out PSNR at the end</h2>{curve}")
    step = f"<p class=note>step {max(p[-1][0] for p in curves.values()):,}</p>"
    parts = [step, f"<div class=plots>{''.join(f'<div>{one}</div>' for one in drawn)}</div>"]
    for tag in logged.Tags()["images"]:
        event = logged.Images(tag)[-1]
        code = base64.b64encode(event.encoded_image_string).decode()
        words = html.escape(f"{tag}, step {event.step:,}{ROWS.get(tag, '')}")
        parts.append(
            f"<figure class=image><figcaption>{words}</figcaption><img alt='{words}' src='data:image/png;base64,{code}'></figure>"
        )
    config = (folder / "config.yaml").read_text() if (folder / "config.yaml").is_file() else ""
    return page.write(
        folder / "report.html",
        folder.name,
        [*parts, f"<h2>Configuration</h2><pre>{html.escape(config)}</pre>"],
    )


ORDER = [
    "loss",
    "held-out PSNR by level",
    "held-out loss by level",
    "held-out",
    "learning rate",
    "other",
]


ROWS = {  # what is shown below each other
    "denoising": ": the images; then with noise and denoised, of three levels",
    "reconstruction": ": the images, and what the autoencoder makes of them",
}


def name(tag: str) -> str:
    """What the curve of a logged number is called."""
    if tag in ("train/loss", "val/loss"):
        return "held out" if tag == "val/loss" else "training"
    return tag.removeprefix("val/").removeprefix("psnr at ").removeprefix("loss at ")


def group(tag: str) -> str:
    """Under which title a logged number is drawn."""
    if tag in ("train/loss", "val/loss"):
        return "loss"
    if tag.startswith("val/psnr at"):
        return "held-out PSNR by level"
    if tag.startswith("val/loss at"):
        return "held-out loss by level"
    return (
        "held-out"
        if tag.startswith("val/psnr")
        else "learning rate"
        if tag.startswith("lr")
        else "other"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
