"""Compare folders of images, matched by name, or two populations of images.

    python scripts/evaluate.py models/demo-data results/demo/recon             # PSNR, SSIM, NMSE, residuals of records.jsonl;
                                                                                # of several draws, how often 90 % intervals hold
    python scripts/evaluate.py models/demo-data results/demo/recon --lpips alex  # and LPIPS, if its weights are in the cache
    python scripts/evaluate.py fid results/prior/samples data/demo/test --weights inception.pth  # or a reference .npz
    python scripts/evaluate.py offline results/prior/samples data/demo/test    # no weights: spectrum, nearest neighbours
    python scripts/evaluate.py offline A B --features a.npy b.npy              # and KID on features of your own [N,D]

Values are compared in [0, 1] of the first folder's intensity contract; PNG, JPEG and TIFF integers in that of their own depth.
--output FILE.json keeps the numbers.
Exit codes: 0 done, 1 some images have no partner or could not be compared (listed), 2 the user's mistake (one line).
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from evaluate_populations import fid, offline

from data import dataset, formats, sources
from data.files import Refusal, commit_json, json_lines
from data.manifest import Row
from data.ranges import Intensity, to_report
from data.series import members
from solvers import metrics
from solvers.run import door
from solvers.run.command import Parser
from solvers.run.outputs import file_name

PICTURES = ("png", "jpeg", "bmp", "tiff")  # whose numbers have no unit
DRAW = re.compile(r"-\d{3,}$")  # what the name of a draw has more than its image's
DRAW_OF_SLICE = re.compile(r"-\d{3,}((?:-|__)\d{4,})$")  # and of a volume's slices
OWN = {
    "lpips": "pairs",
    "weights": "fid",
    "features": "offline",
}  # flags that one kind of comparison has


def main(argv: Sequence[str]) -> int:
    parser = Parser("evaluate.py", __doc__)
    kind = argv[0] if argv and argv[0] in ("fid", "offline") else "pairs"
    parser.add_argument(
        "first", type=Path, help="pairs: the truth; fid, offline: the generated images"
    )
    parser.add_argument(
        "second",
        type=Path,
        help="pairs: the results; fid, offline: the reference (fid: or mu, sigma .npz)",
    )
    parser.add_argument("--lpips", choices=("alex", "vgg", "squeeze"))
    parser.add_argument(
        "--weights",
        type=Path,
        help="fid: the Inception weights of torch-fidelity, if not in its cache",
    )
    parser.add_argument("--features", type=Path, nargs=2, metavar=("A.npy", "B.npy"))
    parser.add_argument("--output", type=Path, metavar="FILE.json")

    def work() -> int:
        options = parser.parse_args(argv[kind != "pairs" :])
        for flag, where in OWN.items():
            if getattr(options, flag) and kind != where:
                raise Refusal(
                    f"--{flag} means nothing here; it belongs to the comparison of {where}"
                )
        numbers, missed = {"pairs": pairs, "fid": fid, "offline": offline}[kind](options)
        show(numbers, options.output)
        for line in missed:
            door.complain(parser.prog, line)
        return 1 if missed else 0

    return door.run(parser.prog, argv, work)


def show(numbers: dict[str, Any], output: Path | None) -> None:
    for key, value in numbers.items():
        print(f"{key:24} {value if not isinstance(value, dict) else spell(value)}")
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        commit_json(output, numbers)


def spell(value: dict[str, Any]) -> str:
    spread = "" if value["interval_95"] is None else f" ± {value['interval_95']:.4f}"
    return f"{value['mean']:.4f}{spread}   (n = {value['n']})"


def pairs(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Mean, 95 % interval and n of each metric over the images that both folders have, and what was left out."""
    truths, results = by_name(options.first), by_name(options.second)
    truths = as_in_series(truths, results)
    common = sorted(truths.keys() & results.keys())
    if not common:
        raise Refusal(f"{options.first} and {options.second} have no image name in common")
    alone = sorted(truths.keys() ^ results.keys())
    missed = [f"without a partner: {', '.join(alone)}"] if alone else []
    perceptual, known = (
        lpips(options.lpips) if options.lpips else None,
        residuals(options.second.parent),
    )
    draws = drawn(options.second.parent)
    columns: dict[str, list[float]] = {}
    for name in common:
        try:
            truth, image = together(truths[name], results[name])
            several = [together(truths[name], row)[1] for row in draws.get(name, ())]
        except Refusal as error:
            missed.append(str(error))
            continue
        values = {
            "psnr": metrics.psnr(image, truth).item(),
            "ssim": metrics.ssim(image, truth).item(),
        }
        values |= {"nmse": metrics.nmse(image, truth).item()}
        values |= {f"lpips_{options.lpips}": perceptual(image, truth)} if perceptual else {}
        values |= {"residual": known[name]} if name in known else {}
        if len(several) > 1:
            values["coverage_90"] = metrics.coverage(image[0], torch.cat(several), truth[0])
        for key, value in values.items():
            columns.setdefault(key, []).append(value)
    if not columns:
        raise Refusal(missed[-1])
    return {key: metrics.describe(values) for key, values in columns.items()}, missed


def residuals(folder: Path) -> dict[str, float]:
    """What sample.py recorded, by name, if this is a folder of its results."""
    path = folder / "records.jsonl"
    try:
        records = list(json_lines(path)) if path.is_file() else []
        return {
            file_name(r["image_id"]): r["residual"]
            for r in records
            if r.get("residual") is not None
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Refusal(f"{path}: not written by sample.py; move it away, or repair it") from None


def drawn(folder: Path) -> dict[str, list[Row]]:
    """The draws of each result, by its name, if this is a folder of several that sample.py made."""
    found: dict[str, list[Row]] = {}
    samples = folder / "samples"
    for name, row in (by_name(samples) if samples.is_dir() else {}).items():
        for result in {DRAW.sub("", name), DRAW_OF_SLICE.sub(r"\1", name)} - {name}:
            found.setdefault(result, []).append(row)
    return found


def by_name(folder: Path) -> dict[str, Row]:
    """Images of a folder by the name that results of sample.py have; volumes are their slices."""
    return {file_name(row.image_id): row for row in sources.find(folder)}


def as_in_series(truths: dict[str, Row], results: dict[str, Row]) -> dict[str, Row]:
    """The truths, where slices of a DICOM series that results hold as a folder have the names they have there."""
    ids = members(truths.values())
    named = {
        row.image_id: f"{volume}__{k:04d}"
        for volume, of in ids.items()
        for k, row in enumerate(_rows(truths, of), 1)
    }
    return {
        named[row.image_id] if named.get(row.image_id) in results else name: row
        for name, row in truths.items()
    }


def _rows(rows: dict[str, Row], ids: Sequence[str]) -> list[Row]:
    return [rows[file_name(one)] for one in ids]


def together(truth: Row, result: Row) -> tuple[Tensor, Tensor]:
    """Both images [1,C,H,W] in the model range of the truth's contract, as they are looked at; what leaves it is not cut."""
    first, second = (formats.upright(formats.read(row.path, row.slice)) for row in (truth, result))
    if first.pixels.shape != second.pixels.shape:
        raise Refusal(
            f"{result.path}: is {tuple(second.pixels.shape)}, its truth {tuple(first.pixels.shape)}"
        )
    if (
        first.meta.format in PICTURES
        and second.meta.format not in PICTURES
        and truth.window is None
    ):
        raise Refusal(
            f"{result.path}: has units of its own, its truth {truth.path} is a picture; compare it with its source"
        )
    intensity = dataset.PLAIN.of(truth, first)
    own = (
        second.meta.window if second.meta.format in PICTURES else None
    )  # the whole depth of their integers
    seen = Intensity(*own) if own else intensity
    return (
        intensity.to_model(first.pixels, clamp=False)[None],
        seen.to_model(second.pixels, clamp=False)[None],
    )


def lpips(net: str):
    """LPIPS on [0,1] images, gray ones replicated. The backbones come from torch's cache; they are not shipped."""
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    try:
        metric = LearnedPerceptualImagePatchSimilarity(net_type=net, normalize=True)  # type: ignore[arg-type]
    except (OSError, ModuleNotFoundError) as error:
        place = Path(torch.hub.get_dir()) / "checkpoints"
        raise Refusal(
            f"LPIPS needs torchvision's {net} weights in {place} ({str(error).splitlines()[0]})"
        ) from None
    return lambda image, truth: metric(
        *(to_report(x).expand(-1, 3, -1, -1) for x in (image, truth))
    ).item()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
