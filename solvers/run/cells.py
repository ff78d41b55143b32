"""Cells of a grid, one task with one solver each, built from merged configurations; and how their images are drawn."""

from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from data.files import Refusal
from ldm import catalogue
from ldm import config as configuration
from ldm.denoiser import Prior
from ldm.sampling import Sampler
from solvers.operators.base import Operator
from solvers.problem import Likelihood
from solvers.solver import Solver

# Of a configuration.
PARTS: dict[str, Any] = {
    "prior": catalogue.PRIOR,
    "operator": Operator,
    "likelihood": Likelihood,
    "solver": Callable,
}
SLICES = 8  # of a volume in one network call
TOGETHER = 16  # images times draws in one network call, unless --batch-size says otherwise


@dataclass(frozen=True)
class Cell:
    """One task with one solver: a cell of the grid that a call may span. operator None: draws from the prior itself."""

    name: str
    operator: Operator | None
    likelihood: Likelihood | None
    solver: Any  # a Solver, or where there is no operator a sampler of the prior (ldm.sampling)
    draws: int = 1  # posterior draws an image
    # Instead of the draws' mean, the one nearest to y, or to the truth.
    keep: Literal["", "residual", "oracle"] = ""

    def note(self, prior: Prior) -> str:
        """That several draws spread less than their uncertainty (docs/calibration.md), or ""."""
        if self.operator is None or self.keep or self.draws < 2:
            return ""
        if self.solver.posterior(prior, self.operator):
            return ""
        name = type(self.solver).__name__
        never = type(self.solver).posterior is Solver.posterior
        other = "; --solver daps draws from the posterior" if never else ""
        spread = "whose spread may be far less than their error"
        return f"draws of {name} are estimates here, {spread}{other}"

    def lowered(self, prior: Prior) -> str:
        """That the solver would start at more noise than the prior was trained on, or ""."""
        wanted = getattr(self.solver, "sigma_max", None) or 0.0
        if wanted <= prior.sigma_max:
            return ""
        return (
            f"the solver's sigma_max {wanted:.4g} is lowered to the prior's {prior.sigma_max:.4g}"
        )


@dataclass(frozen=True)
class Run:
    """How images are drawn, the same for every cell."""

    seed: int = 0
    rows: int = 1  # images times draws in one network call
    measurements: bool = False  # the scans are y, there is no truth
    together: int = SLICES  # slices of a volume in one network call
    planes: Literal["turns", "all"] = "turns"  # of volumes: which are denoised at a noise level
    coupling: float = 0.0  # mm along a volume's slices over which the noise of its draws falls to 1/e of being the same
    scale: float | Literal["auto"] = 1.0  # what y is multiplied by, and its result divided by
    zoom: bool = False  # panels enlarge the region of the largest error
    precision: str = "32-true"  # Lightning's words; mixed is of the diffusion network alone (see Meter), so Lightning is not told


def part(name: str, config: configuration.Node, key: str) -> Any:
    """One part of a configuration, built, and of its kind. name: of the cell, for messages."""
    if key not in config:
        raise Refusal(
            f"{name}: the configuration has no {key}; name one with --{'solver' if key == 'solver' else 'task'}"
        )
    made = configuration.build(config[key])
    if not isinstance(made, PARTS[key]):
        raise Refusal(
            f"{config.locate(key)}: {made!r} is no {key}; target and params of one are allowed"
        )
    return made


def build(name: str, config: configuration.Node, options: Namespace) -> Cell:
    """The operator, likelihood and solver of one configuration. options: the flags of sample.py."""
    solver = part(name, config, "solver")
    if isinstance(solver, Sampler):
        if "operator" in config:
            raise Refusal(f"{name}: a sampler of the prior takes no --task")
        return Cell(name, None, None, solver)
    operator, likelihood = part(name, config, "operator"), part(name, config, "likelihood")
    return drawn(Cell(name, operator, likelihood, solver), options)


def drawn(cell: Cell, options: Namespace) -> Cell:
    """The cell with as many draws as the flags ask for, of which --num-runs keep one."""
    turns = getattr(cell.operator, "turns", False)  # a mean of half-turned solutions means nothing
    runs = options.num_runs or (4 if turns and options.num_samples == 1 else None)
    keep: Any = "" if runs is None else "oracle" if options.oracle else "residual"
    return replace(cell, draws=runs or options.num_samples, keep=keep)


def run_of(options: Namespace, cells: Sequence[Cell]) -> Run:
    """How the images of all cells are drawn, as the flags say. Raises Refusal for flags that mean nothing with them."""
    for flag, asked in (
        ("--coupling", options.coupling),
        ("--planes all", options.planes == "all"),
    ):
        if asked and options.slicewise:
            raise Refusal(f"{flag} is of volumes as one, and means nothing with --slicewise")
        if asked and not any(getattr(cell.solver, "uses_prior", True) for cell in cells):
            name = type(cells[0].solver).__name__
            raise Refusal(f"{flag} is of the prior, and means nothing with {name}, which uses none")
    most = max(cell.draws for cell in cells) if cells[0].operator else TOGETHER
    together = options.batch_size or min(most, TOGETHER)
    volumes = {
        "together": options.batch_size or SLICES,
        "planes": options.planes,
        "coupling": options.coupling,
    }
    told = {
        "measurements": options.measurements,
        "scale": options.scale or 1.0,
        "zoom": options.zoom,
    }
    return Run(options.seed, together, precision=options.precision, **told, **volumes)
