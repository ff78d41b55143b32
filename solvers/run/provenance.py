"""How results come about: what must be the same for an earlier run to be continued, and what is told beside them."""

import platform
from argparse import Namespace
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from ldm import catalogue
from ldm.denoiser import Prior
from solvers.run.cells import Cell
from solvers.run.flags import OF_VOLUMES
from solvers.run.results import Results

LIBRARIES = ("torch", "pytorch-lightning", "diffusers", "numpy")


def results_of(
    cell: Cell, config: Mapping[str, Any], prior: Prior, options: Namespace, folder: Path
) -> Results:
    """The result folder of one cell. config: its merged configuration, as YAML takes it; options: the flags of sample.py."""
    decisive = dict(config)
    decisive["prior"] = {
        "model": str(options.model or config.get("prior") or catalogue.MODEL),
        "sha256": prior.origin,
    }
    decisive["run"] = {
        "seed": options.seed,
        "draws": cell.draws,
        "keep": cell.keep,
        "batch_size": options.batch_size,
        "measurements": options.measurements,
        "precision": options.precision,
        "split": options.split,
        "keep_patient": options.keep_patient,
        "images": str(options.manifest or options.data_root or "seeds"),
    }
    decisive["run"] |= {
        word: getattr(options, word) for word in OF_VOLUMES if getattr(options, word)
    }
    decisive["run"] |= {"planes": options.planes} if options.planes != "turns" else {}
    if options.window:
        decisive["run"]["window"] = list(options.window)
    if options.output_format:
        decisive["run"]["output_format"] = options.output_format
    if options.scale:
        decisive["run"]["scale"] = options.scale
    versions = {
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in LIBRARIES},
    }
    told = {"cell": cell.name, "command": options.command, "versions": versions}
    told |= {"note": note} if (note := cell.note(prior)) else {}
    derivation = f"{cell.name}, prior {prior.origin[:16]}, seed {options.seed}; research use, not for diagnosis"
    return Results(folder, decisive, told, derivation, options.keep_patient)
