"""What there is: tasks, solvers, models and operators by name, one line each, and what each needs; told without torch."""

import argparse
import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from data.bounded_yaml import read_yaml
from ldm import catalogue

KINDS = ("tasks", "solvers", "models", "operators")
OPERATORS = "solvers/operators"
NONLINEAR = {"HighDynamicRange", "NetworkBlur", "NonlinearBlur", "PhaseRetrieval"}
AS_PARTS = {"Composition", "Physics"}
PRIORS = {
    "ldm.latent.": "latent prior",
    "ldm.patch.": "patch prior",
}  # by the module of `prior:`; others are of pixels
NEEDS = "# Needs: "


class Entry(NamedTuple):
    """One name. needs: what it does not work without, or of a model and an operator its kind; "" if nothing."""

    name: str
    needs: str
    line: str


def entries(kind: str) -> list[Entry]:
    """Everything of a kind, sorted by name."""
    if kind == "operators":
        return sorted(_operators())
    lines = catalogue.listing(kind)
    return [Entry(name, _needs(kind, name), line) for name, line in lines.items()]


def text(kind: str) -> str:
    """A table for the terminal; names that mean another one stand below it."""
    found = entries(kind)
    columns = [max(len(entry[i]) for entry in found) for i in (0, 1)]
    lines = [
        "  ".join((e.name.ljust(columns[0]), e.needs.ljust(columns[1]), e.line)).rstrip()
        for e in found
    ]
    if kind == "tasks" and (others := catalogue.aliases(kind)):
        width = max(map(len, others))
        lines += ["", "other names that are understood:"]
        lines += [f"{alias:{width}}  {name}" for alias, name in sorted(others.items())]
    return "\n".join(lines)


class List(argparse.Action):
    """--list KIND: print and end."""

    def __call__(
        self, parser: Any, namespace: Any, values: Any, option_string: str | None = None
    ) -> None:
        print(text(values))
        parser.exit()


def names(kind: str) -> Any:
    """What the shell completes (argcomplete): the names of a kind."""
    return lambda **_: [entry.name for entry in entries(kind)]


def _needs(kind: str, name: str) -> str:
    if kind == "models":
        settings = catalogue.home("models") / name / "config.yaml"
        target = read_yaml(settings.read_text(), settings)["prior"]["target"]
        return next(
            (words for module, words in PRIORS.items() if target.startswith(module)), "pixel prior"
        )
    lines = catalogue.settings(kind, name).read_text().splitlines()
    return next((line.removeprefix(NEEDS) for line in lines if line.startswith(NEEDS)), "")


def _operators() -> Iterator[Entry]:
    """What `solvers.operators` exports, out of the text of its files."""
    folder = catalogue.home(OPERATORS)
    public = _exported(folder / "__init__.py")
    for path in sorted(folder.glob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and node.name in public:
                about = (ast.get_docstring(node) or "").splitlines()[0]
                kind = (
                    "as its parts"
                    if node.name in AS_PARTS
                    else "nonlinear"
                    if node.name in NONLINEAR
                    else "linear"
                )
                yield Entry(node.name, kind, about)


def _exported(path: Path) -> set[str]:
    imported = [
        node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ImportFrom)
    ]
    return {alias.name for node in imported for alias in node.names}
