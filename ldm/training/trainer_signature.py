"""The arguments of Lightning's Trainer, out of the text of its file: to import it takes ten seconds, to read it a twentieth."""

import ast
import collections.abc
import datetime
import typing
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from data.files import Refusal

KNOWN = {
    "typing": typing,
    "datetime": datetime,
    "collections.abc": collections.abc,
}  # others' names in annotations mean Any

MEANT = {  # types that Lightning gives a name of its own
    "_LITERAL_WARN": Literal["warn"],
    "_PRECISION_INPUT": Literal[
        64, 32, 16, "64", "32", "16", "bf16", "64-true", "32-true", "16-true", "bf16-true", "16-mixed", "bf16-mixed",
        "transformer-engine", "transformer-engine-float16",
    ],
}  # fmt: skip


def trainer() -> type:
    """A class with the signature of the installed `pytorch_lightning.Trainer`, and nothing else."""
    spec = find_spec("pytorch_lightning")
    if spec is None or spec.origin is None:
        raise Refusal("pytorch_lightning is not installed; pip install -e . does that")
    tree = ast.parse(
        Path(spec.origin).with_name("trainer").joinpath("trainer.py").read_text("utf-8")
    )
    found = next(
        node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Trainer"
    )
    build = next(
        node for node in found.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"
    )
    build.body, build.decorator_list = [ast.Pass()], []
    found.body, found.decorator_list, found.bases = [build], [], []
    namespace = _names(tree)
    exec(
        compile(ast.fix_missing_locations(ast.Module([found], [])), "trainer.py", "exec"), namespace
    )
    return namespace["Trainer"]


def _names(tree: ast.Module) -> dict[str, Any]:
    """What annotations may say: every name that the file imports."""
    names: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            home = KNOWN.get(node.module or "")
            names |= {
                alias.asname or alias.name: getattr(home, alias.name, Any) for alias in node.names
            }
    return names | MEANT
