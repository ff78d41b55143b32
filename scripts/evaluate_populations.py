"""Two populations of images compared: FID by anybody's Inception weights, or what can be said without weights (evaluate.py)."""

import argparse
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from data import dataset, formats, sources
from data.files import Refusal
from data.manifest import Row
from data.ranges import to_report
from ldm.checkpoints.reading import weights
from solvers import metrics
from solvers.run import distributions

FEATURES = 2048  # of Inception's last pooling


BATCH = 32  # images in one call of the feature network


def fid(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Fréchet Inception distance with the standard (torch-fidelity) features, to a folder or to stored moments."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    if options.weights and not options.weights.is_file():
        raise Refusal(f"{options.weights}: no such file of Inception weights")
    if options.weights:
        weights(options.weights)  # one line for what is no weight file
        try:  # torch-fidelity unpickles whatever the file holds: only what builds nothing but tensors is handed on
            torch.load(options.weights, weights_only=True, map_location="meta")
        except pickle.UnpicklingError:
            raise Refusal(f"{options.weights}: holds more than tensors and is not opened") from None
    path = str(options.weights) if options.weights else None
    try:
        network = FrechetInceptionDistance(FEATURES, feature_extractor_weights_path=path).inception
    except ModuleNotFoundError:
        raise Refusal("FID needs torch-fidelity: pip install 'palimpsest[fid]'") from None
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise Refusal(
            f"FID needs the Inception weights of torch-fidelity; give --weights FILE ({reason})"
        ) from None

    def features(folder: Path) -> np.ndarray:
        bytes_ = ((to_report(x) * 255).round().byte().expand(-1, 3, -1, -1) for x in stack(folder))
        with torch.no_grad():
            return torch.cat([network(x) for x in bytes_]).double().numpy()

    generated = features(options.first)
    if options.second.suffix == ".npz":
        stored = loaded(options.second, np.lib.npyio.NpzFile)
        if not {"mu", "sigma"} <= stored.keys():
            raise Refusal(f"{options.second}: holds {', '.join(stored)}, not mu and sigma")
        if (stored["mu"].shape, stored["sigma"].shape) != ((FEATURES,), (FEATURES, FEATURES)):
            raise Refusal(
                f"{options.second}: moments of {stored['mu'].shape} features; ({FEATURES},) is allowed"
            )
        reference, count = (stored["mu"], stored["sigma"]), None
    else:
        others = features(options.second)
        reference, count = distributions.moments(others), len(others)
    value = distributions.frechet(*distributions.moments(generated), *reference)
    return {"fid": value, "generated": len(generated), "reference": count}, []


def offline(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """What can be said without anybody's weights."""
    generated, reference = (
        torch.cat(list(stack(folder))) for folder in (options.first, options.second)
    )
    if generated.shape[1:] != reference.shape[1:]:
        sizes = f"{tuple(generated.shape[1:])} and {tuple(reference.shape[1:])}"
        raise Refusal(
            f"{options.first} and {options.second} hold images of {sizes}; one size is allowed"
        )
    psnr, ssim = distributions.nearest(generated, reference)
    numbers: dict[str, Any] = {
        "spectral_distance_db": distributions.spectral_distance(generated, reference),
        "psnr_to_nearest": metrics.describe(psnr.tolist()),
        "ssim_to_nearest": metrics.describe(ssim.tolist()),
    }
    if options.features:
        a, b = (loaded(path, np.ndarray) for path in options.features)
        if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
            raise Refusal(
                f"features of shapes {a.shape} and {b.shape}; [N,D] and [M,D] are allowed"
            )
        numbers["kid"] = distributions.kernel_distance(a, b)
        numbers["frechet"] = distributions.frechet(
            *distributions.moments(a), *distributions.moments(b)
        )
    return numbers, []


def stack(folder: Path) -> Iterator[Tensor]:
    """All images of a folder [B,C,H,W] in the model range, a batch at a time."""
    rows = sources.find(folder)
    for start in range(0, len(rows), BATCH):
        images = [dataset.load(row, channels_of(row))[0] for row in rows[start : start + BATCH]]
        if len({image.shape for image in images}) > 1:
            raise Refusal(f"{folder}: images of several sizes; populations need one size")
        yield torch.stack(images)


def channels_of(row: Row) -> int:
    return len(formats.read(row.path, row.slice).pixels)


def loaded(path: Path, kind: type) -> Any:
    """An array of an .npy file, or the arrays of an .npz file."""
    try:
        found = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, BadZipFile):
        found = None
    if not isinstance(found, kind):
        raise Refusal(f"{path}: is no {'.npy' if kind is np.ndarray else '.npz'} file of numbers")
    return found
