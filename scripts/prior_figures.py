"""What is measured of a trained prior before it is published: held-out denoising, its best average, its errors, its training."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import torch
from denoising import LEVELS
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.nn.functional import avg_pool1d

from data.dataset import ManifestDataset
from data.files import Refusal
from data.rows import Row
from data.seeding import Noise
from ldm import checkpoints, neighbours, spectra
from ldm import config as configuration
from ldm.checkpoints.description import Described
from ldm.checkpoints.own import half_lives
from ldm.checkpoints.reading import weights
from ldm.denoiser import Prior
from ldm.latent import LatentPrior
from ldm.schedule import geometric
from solvers.metrics import psnr

ROWS = 12  # noise levels at which errors are measured by frequency
STACKS = 2  # of each run of neighbouring slices, on which the coherence of their errors is measured
DEEP = 10  # slices of each
Losses = dict[str, tuple[list[int], list[float]]]  # steps and values, by the name of the run
PER_SUBJECT = 6  # slices of each held-out subject that are measured, evenly spread


def held_out(path: Path) -> tuple[list[str], Tensor]:
    """Subjects and images of evenly spread slices."""
    data, rows = ManifestDataset(path), defaultdict(list)
    for index, row in enumerate(data.rows):
        rows[row.subject].append(index)
    chosen = [i for group in rows.values() for i in spread(group)]
    return [data.rows[i].subject for i in chosen], torch.stack([data[i]["image"] for i in chosen])


def spread(group: Sequence[int]) -> list[int]:
    """PER_SUBJECT members at most, as far apart as they can be from the first on."""
    count = min(PER_SUBJECT, len(group))
    return [group[i * len(group) // count] for i in range(count)]


def figures(prior: Prior, images: Tensor) -> tuple[dict[str, Tensor], Tensor | None]:
    """PSNR per image of whatever can be measured, and reconstructions by the autoencoder if there is one."""
    found, decoded = {}, None
    if isinstance(prior, LatentPrior):
        decoded = torch.cat([prior.decode(prior.encode(x[None])) for x in images])
        found["autoencoder"] = psnr(decoded, images)
        found["autoencoder, unquantised"] = psnr(
            torch.cat([prior.decode(prior.encode(x[None]), False) for x in images]), images
        )
    for sigma in LEVELS:
        state = torch.cat([prior.to_state(x[None]) for x in images])
        noisy = state + sigma * Noise([str(i) for i in range(len(images))], "noise").like(state)
        clean = torch.cat(
            [prior.to_image(prior.denoise(x[None], torch.tensor([sigma]))) for x in noisy]
        )
        where = "of the latent" if isinstance(prior, LatentPrior) else ""
        found[f"denoised, sigma {sigma} {where}".strip()] = psnr(clean, images)
    return found, decoded


def by_subject(subjects: Sequence[str], found: dict[str, Tensor]) -> list[str]:
    """A table of the means of `figures`, of each subject's images and of all."""
    names = list(dict.fromkeys(subjects))
    table = ["| | " + " | ".join([*names, "all"]) + " |", "|---" * (len(names) + 2) + "|"]
    table.append(
        "| n | " + " | ".join(str(subjects.count(s)) for s in names) + f" | {len(subjects)} |"
    )
    for what, values in found.items():
        means = [values[[i for i, s in enumerate(subjects) if s == name]].mean() for name in names]
        table.append(
            f"| {what} | " + " | ".join(f"{float(v):.1f}" for v in [*means, values.mean()]) + " |"
        )
    return table


def best_average(checkpoint: Path, validation: Path) -> tuple[float | bool, list[str]]:
    """The half-life whose average denoises validation slices best, of a training that kept several, and a line of all."""
    kept = half_lives(content) if "ema_others" in (content := weights(checkpoint)) else []
    if len(kept) < 2:
        return True, []
    _, images = held_out(validation)
    found = {}
    for length in kept:
        prior = checkpoints.load(checkpoint, ema=float(length))
        found[length] = float(torch.stack([*figures(prior, images)[0].values()]).mean())
    best = max(found, key=found.__getitem__)
    words = ", ".join(
        f"{float(length):,g} images {value:.3f} dB" for length, value in found.items()
    )
    return float(best), [
        f"averages of the weights by half-life, mean PSNR of the levels below on validation slices: {words}"
    ]


def with_first_stage(described: Described, source: Path | None, validation: Path) -> Described:
    """The same latent prior with another decoder (trained with `decoder_only`), and its error variance on validation slices."""
    state, node = dict(described.state), configuration.plain(described.node)
    if source is not None:
        state |= {
            f"first_stage.{key}": tensor
            for key, tensor in checkpoints.first_stage(source).state_dict().items()
        }
        node["params"].pop("image_variances", None)  # of the decoder that was
    replaced = replace(described, state=state, node=node)
    prior, data = replaced.build(), ManifestDataset(validation)
    with torch.no_grad():
        errors = [
            prior.decode(prior.encode(data[i]["image"][None])) - data[i]["image"]
            for i in range(len(data))
        ]
    node["params"]["error_variance"] = float(torch.stack(errors).square().mean())
    return replaced


def with_spectra(described: Described, source: Path) -> Described:
    """The same prior with Var[x0 | x] by frequency as measured on the images of a manifest, best of people it never saw."""
    node, data = configuration.plain(described.node), ManifestDataset(source)
    prior = described.build()
    images = torch.stack([data[i]["image"] for i in range(len(data))])
    noise, rows = Noise([row.image_id for row in data.rows], "noise"), []
    for sigma in geometric(ROWS, prior.sigma_min, prior.sigma_max).tolist():
        error = errors(prior, images, noise, sigma)
        rows.append(spectra.row(sigma, *spectra.power(prior.crop(error)).tolist()))
    node["params"]["variances"] = rows
    return replace(described, node=node)


def with_coherence(described: Described, source: Path, subjects: Sequence[str]) -> Described:
    """The same prior with the coherence of its errors in neighbouring slices of these subjects, whose voxels are cubes."""
    node, data = configuration.plain(described.node), ManifestDataset(source)
    chosen = [stack for name in subjects for stack in stacks(data.rows, name)]
    if not chosen:
        raise Refusal(
            f"--cubes {' '.join(subjects)}: {source} has no {STACKS * DEEP} neighbouring slices"
        )
    prior, rows = described.build(), []
    if prior.kind != "pixel" or prior.patched:
        raise Refusal("--cubes: volumes take a pixel prior of whole slices alone")
    images = [torch.stack([data[i]["image"] for i in stack]) for stack in chosen]
    names = [[data.rows[i].image_id for i in stack] for stack in chosen]
    for sigma in geometric(ROWS, prior.sigma_min, prior.sigma_max).tolist():
        noises = (Noise(each, "noise") for each in names)
        found = [errors(prior, x, noise, sigma) for x, noise in zip(images, noises)]
        rows.append(neighbours.row(sigma, neighbours.measured(found)))
    node["params"]["coherence"] = rows
    return replace(described, node=node)


def errors(prior: Prior, images: Tensor, noise: Noise, sigma: float) -> Tensor:
    """[B,C,H,W] D(x0 + sigma n, sigma) - x0 of the images' states, one after the other."""
    x0 = prior.to_state(images)
    x = x0 + sigma * noise.like(x0)
    return torch.cat([prior.denoise(one[None], torch.tensor([sigma])) for one in x]) - x0


def stacks(rows: Sequence[Row], subject: str) -> list[range]:
    """Neighbouring slices of a subject: images next to one another whose names go on by one, as NAME-041 and NAME-042."""

    def run(i: int) -> tuple[str, int]:
        """The same for all of a run."""
        name, _, number = rows[i].image_id.rpartition("-")
        return name, int(number) - i if number.isdecimal() else -i

    found = []
    for _, group in groupby((i for i, row in enumerate(rows) if row.subject == subject), run):
        slices = list(group)
        if len(slices) >= STACKS * DEEP:
            starts = torch.linspace(slices[0], slices[-1] + 1 - DEEP, STACKS + 2)[1:-1]
            found += [range(k, k + DEEP) for k in starts.round().int().tolist()]
    return found


def history(files: Sequence[Path], images: Tensor) -> list[str]:
    """The learning curve: a table of held-out figures by step, of earlier checkpoints of the run."""
    rows = []
    for path in files:
        step = weights(path)["global_step"]
        found = figures(checkpoints.load(path), images)[0].values()
        rows.append((step, " | ".join(f"{float(value.mean()):.2f}" for value in found)))
    if not rows:
        return []
    head = [
        "| steps | " + " | ".join(f"sigma {sigma}" for sigma in LEVELS) + " |",
        "|---" * (len(LEVELS) + 1) + "|",
    ]
    return [*head, *(f"| {step:,} | {values} |" for step, values in sorted(rows))]


def training(runs: Sequence[Path], last: int) -> tuple[Losses, list[str]]:
    """The training loss of each run by step (mean of ten), and a line of how long it took; of the last run `last` steps.

    A run shorter than the interval at which losses are logged has neither curve nor pace.
    """
    losses, lines = {}, []
    for run in runs:
        events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
        events.Reload()
        tags = [tag for tag in ("train/l1", "train/loss") if tag in events.Tags()["scalars"]]
        logged = events.Scalars(tags[0]) if tags else []
        found = {e.step: e for e in logged if e.step < last or run != runs[-1]}
        steps = sorted(found)  # each once: what a resumed run did again has replaced what was lost
        if not steps:
            lines.append(f"`{run.name}`: too few steps for a loss to be logged")
            continue
        values = torch.tensor([found[step].value for step in steps]).log10()
        smooth = avg_pool1d(values[None], 10, 1, 5, count_include_pad=False)[0, : len(steps)]
        losses[f"{run.name}: {tags[0]}"] = (steps, smooth.mul(math.log(10)).exp().tolist())
        times = torch.tensor([found[step].wall_time for step in steps], dtype=torch.float64)
        pace = float((times.diff() / torch.tensor(steps).diff()).median())
        paced = f" of {pace:.2f} s (median)" if len(steps) > 1 else ""
        lines.append(f"`{run.name}`: {steps[-1] + 1:,} steps{paced}")
    return losses, lines
