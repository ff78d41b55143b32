"""Palimpsest from Python: what sample.py does, with arrays, tensors and files, in a few lines (docs/python.md).

    import palimpsest as P

    prior = P.load("demo-patch")
    problem = P.measure(P.operators.SuperResolution(4), image, sigma_y=0.01, range="unit")
    result = P.restore(problem, prior, solver="daps", steps=20, draws=4)
    result.image, result.draws, result.std, result.residual
    P.restore("scan.dcm", task="super_resolution").save("restored.dcm")

Nothing is imported before it is needed: torch and Lightning take seconds. Mistakes are `P.Refusal`s, ValueErrors of one line.
"""

import importlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

LATER = {  # names of this module that are imported when they are first asked for
    "operators": ("solvers.operators", None),
    "Refusal": ("data.files", "Refusal"),
    "Result": ("solvers.run.answer", "Result"),
    "Problem": ("solvers.problem", "Problem"),
    "Gaussian": ("solvers.problem", "Gaussian"),
    "Poisson": ("solvers.problem", "Poisson"),
    "Clean": ("solvers.problem", "Clean"),
    "Stopped": ("solvers.run.progress", "Stopped"),
}


def __getattr__(name: str) -> Any:
    if name not in LATER:
        raise AttributeError(f"module 'palimpsest' has no attribute {name!r}")
    module, member = LATER[name]
    found = importlib.import_module(module)
    return found if member is None else getattr(found, member)


class Listing(dict[str, str]):
    """Names, each with one line about it."""

    def __repr__(self) -> str:
        width = max(map(len, self), default=0)
        return "\n".join(f"{name:{width}}  {line}" for name, line in self.items())


def tasks() -> Listing:
    """The measurements that `restore(task=…)` knows by name."""
    return _listing("tasks")


def solvers() -> Listing:
    """The algorithms that `restore(solver=…)` knows by name; those called prior draw from the prior itself, with sample.py."""
    return _listing("solvers")


def models() -> Listing:
    """The shipped priors that `load` knows by name."""
    return _listing("models")


def load(
    model: str | os.PathLike = "demo-pixel", config: Any = None, label: int | None = None
) -> Any:
    """A prior: a name of `models()`, a model folder, the log folder of a training run, or another program's weight file.

    config: what a foreign file does not say about itself (a YAML file or a mapping). label: the class, of class-conditional
    networks. Raises Refusal for what is none, and for weights that do not fit.
    """
    from ldm import catalogue
    from ldm.config import Node

    return catalogue.prior(
        Node({} if label is None else {"prior": Node({"label": label}, "prior")}),
        str(model),
        config,
    )


def measure(
    operator: Any, image: Any, sigma_y: Any, seed: int = 0, *, range: Any = None, ids: Any = None
) -> Any:
    """Simulate a measurement y = A x + sigma_y n of images, as a Problem that knows nothing of the truth.

    operator: of `P.operators`; a random one draws its mask or kernel for each image. image: an array or tensor (axes and
    `range` as `data.arrays.Arrays` says). sigma_y: a number, in units of images in [-1, 1] (of the stored y for CT and MRI), or
    a `P.Gaussian`, `P.Poisson` or `P.Clean`. ids: a name for each image; with the seed it decides every random number.
    """
    from solvers.run import call

    return call.measure(operator, image, sigma_y, seed, range, ids)


def restore(
    what: Any,
    prior: Any = None,
    *,
    solver: Any = None,
    task: Any = None,
    steps: int | None = None,
    draws: int | None = None,
    seed: int = 0,
    range: Any = None,
    ids: Any = None,
    overrides: Sequence[str] = (),
    watch: Any = None,
    **flags: Any,
) -> Any:
    """Draw images from the posterior: a Result, or of a folder or manifest a list of them, one for each file or series.

    what: a Problem of `measure`; an array or tensor of images (`range`, `ids`: see `measure`) or a file, folder or manifest,
    which `task` says how to measure, or with measurements=True was measured. prior: of `load`, or what `load` takes.
    solver: a name of `solvers()`, a YAML file, or a Solver. task: a name of `tasks()` or a YAML file. draws: of each image.
    overrides: as on the command line, "operator.params.factor=2". flags: further flags of sample.py, by their names with _:
    num_runs, measurements, batch_size, precision, accelerator, split, limit, …
    watch: is called before each network call with a Moment (solvers/run/progress.py): how far the run is, how long it will
    take, and the estimate so far. If it returns False the run ends there and raises `P.Stopped`, which is no Exception.

    The result is that of sample.py with the same words, seed and image ids. Raises Refusal, before any network runs, for what
    cannot be solved; and for images that failed, with the reason of the first.
    """
    from solvers.run import asked, call

    words = {"task": task, "steps": steps, "num_samples": draws, "seed": seed, **asked.known(flags)}
    said = call.Call(what, prior, solver, words, overrides, range, ids)
    return call.restore(said, watch)


def follow(
    what: Any, prior: Any = None, *, stop: Any = None, every: float = 0.5, **words: Any
) -> Iterator[Any]:
    """What `restore` does with the same words, looked at meanwhile: yields a Glimpse every so many seconds, at last the Result.

    A Glimpse (solvers/run/follow.py) has `moment`, `residuals` and, in a notebook, a picture. stop: a `threading.Event` that,
    set, ends the run before its next network call, when `P.Stopped` is raised; closing the iterator ends it too.
    """
    import threading

    from solvers.run.follow import follow

    return follow(
        lambda watch: restore(what, prior, watch=watch, **words), stop or threading.Event(), every
    )


def estimate(
    what: Any,
    prior: Any = None,
    *,
    solver: Any = None,
    task: Any = None,
    steps: int | None = None,
    draws: int | None = None,
    seed: int = 0,
    range: Any = None,
    ids: Any = None,
    overrides: Sequence[str] = (),
    watch: Any = None,
    **flags: Any,
) -> float:
    """Seconds that `restore` would take with the same words, from its first two steps on the first image; nobody watches.

    Raises Refusal for what cannot be solved, as `restore` does.
    """
    from solvers.run import asked, call

    words = {"task": task, "steps": steps, "num_samples": draws, "seed": seed, **asked.known(flags)}
    return call.estimate(call.Call(what, prior, solver, words, overrides, range, ids))


def command(what: Any, prior: Any = None, *, overrides: Sequence[str] = (), **words: Any) -> str:
    """The command line that does what `restore` does with the same words. Raises Refusal where one is no name or number."""
    from solvers.run import asked

    return asked.spelled(what, prior, words, overrides)


def settings(kind: str, name: str) -> Any:
    """What can be set of a task or solver, as a list of `ldm.signatures.Setting`: key, kind, value, choices, about.

    kind: "tasks" or "solvers". The keys are those of `overrides`: "operator.params.factor" and so on.
    """
    from ldm import catalogue

    return catalogue.parameters(kind, name)


def _listing(kind: str) -> Listing:
    from ldm import catalogue

    return Listing(catalogue.listing(kind))
