"""How long a restoration will take, and what would be faster: --dry-run."""

from dataclasses import replace

import torch

from data.files import Refusal
from ldm import catalogue
from ldm import config as configuration
from solvers.run.cells import Cell
from solvers.run.cost import peak_memory
from solvers.run.module import Reconstruction
from solvers.run.scans import Scan

FAST = (
    "pnp",
    "tv",
    "resample_fast",
    "padis",
    "daps",
    "codps_plus",
)  # of which --dry-run names the fastest


def estimate(
    module: Reconstruction, device: torch.device, many: int, scan: Scan, count: int
) -> int:
    """Print what a few steps on one of `count` images tell, and what would be faster, where `many` such devices share them."""
    module.to(device)
    for cell in module.cells:
        seconds = module.estimate(cell, scan)
        peak = peak_memory() / 2**30
        print(f"{cell.name}: {took(seconds, count, many)}; peak memory {peak:.2f} GiB")
        found = faster(module, cell, scan, seconds) if cell.operator else []
        for name, less in found:
            print(f"  faster: --solver {name:14} {took(less, count, many)}")
    return 0


def took(seconds: float, count: int, devices: int) -> str:
    return f"about {seconds:.1f} s an image, {seconds * count / devices / 60:.1f} min for {count}"


def faster(
    module: Reconstruction, cell: Cell, scan: Scan, seconds: float
) -> list[tuple[str, float]]:
    """The three fastest solvers that do the job of a cell with this prior in less time, and their seconds an image."""
    found = []
    for name in FAST:
        chosen = configuration.build(
            configuration.load([catalogue.settings("solvers", name)])["solver"]
        )
        if isinstance(chosen, type(cell.solver)):
            continue
        other = replace(cell, name=name, solver=chosen)
        try:
            Reconstruction(module.prior, [other], module.run, module.posing.fit).check(scan)
        except Refusal:  # cannot do it
            continue
        found.append((name, module.estimate(other, scan, trials=1)))
    return sorted((pair for pair in found if pair[1] < seconds), key=lambda pair: pair[1])[:3]
