"""The folder of a training run: one writer at a time, and a checkpoint is gone on with only by the model and data it knows."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data.files import Refusal, file_digest, locked
from ldm.checkpoints.reading import weights
from ldm.trained import PARTS

SEEDS = {
    "model.params.seed": 0,
    "data.params.seed": 0,
}  # what they are where a configuration names none
FIXED = (
    *PARTS,
    *SEEDS,
    *(f"model.params.optimiser.params.{name}" for name in ("lr", "beta1", "beta2", "weight_decay")),
)  # by resuming
MEASURED = (
    "scale",
    "shift",
    "error_variance",
    "variances",
    "image_variances",
    "coherence",
)  # parameters of a prior that training finds out


@contextmanager
def claimed(folder: Path, resume: Path | None) -> Iterator[Path]:
    """Make the folder and hold it. Raises Refusal if another run writes there, or if it holds one that is not resumed."""
    with locked(folder, "choose another --name"):
        goes_on = resume is not None and resume.resolve().is_relative_to(folder.resolve())
        if not goes_on and any((folder / "checkpoints").glob("*.ckpt")):
            raise Refusal(
                f"{folder}: holds an earlier run; choose another --name, or go on with it by --resume auto"
            )
        yield folder


def digests(manifests: Mapping[str, str | None]) -> dict[str, str]:
    """SHA-256 of each manifest file."""
    found = {}
    for split, path in manifests.items():
        if path is not None:
            if not Path(path).is_file():
                raise Refusal(f"data.params.{split}: {path}: no such manifest")
            found[split] = file_digest(path)
    return found


def same_run(
    path: Path, config: Mapping[str, Any], manifests: Mapping[str, str]
) -> Mapping[str, Any]:
    """The checkpoint. Raises Refusal, naming the first difference, unless it is of this model (with its geometry) and data."""
    saved = weights(path)
    if not all(isinstance(saved.get(part), Mapping) for part in ("config", "manifests")):
        raise Refusal(f"{path}: not a checkpoint of main.py; start from its weights with --init")
    old, new = SEEDS | dotted(saved["config"], ""), SEEDS | dotted(config, "")
    for key in sorted(old.keys() | new.keys()):
        if (
            old.get(key) != new.get(key)
            and key.startswith(FIXED)
            and key.rsplit(".", 1)[-1] not in MEASURED
        ):
            raise Refusal(
                f"{path}: trained with {key} = {old.get(key)}, the configuration says {new.get(key)}"
            )
    for split, digest in saved["manifests"].items():
        if manifests.get(split) != digest:
            raise Refusal(
                f"{path}: the {split} manifest has changed since; start a new run with --init {path}"
            )
    return saved


def dotted(node: Any, where: str) -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    if isinstance(node, Mapping):
        return {
            k: v
            for key, value in node.items()
            for k, v in dotted(value, f"{where}.{key}" if where else str(key)).items()
        }
    return {where: list(node) if isinstance(node, (list, tuple)) else node}
