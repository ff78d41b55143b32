"""Configuration: YAML files merged left to right, then `key=value`; {target, params} nodes built into objects.

OmegaConf ends here: what leaves `load` are plain dicts that remember where each key came from, so that every error
can name the file and the key. A target must be a class of ours, a class of an admitted plug-in, or a foreign
class of a listed kind; never a function, and never trusted by its prefix alone.
"""

import importlib
import inspect
import io
import re
import traceback
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from data.bounded_yaml import bound_yaml
from data.files import Refusal, conceal, first_line, nearest
from ldm import former, plugins, signatures

OURS = {"data", "ldm", "solvers"}
FOREIGN_ROOTS = {"torch", "torchvision", "torchmetrics", "pytorch_lightning"}
FOREIGN_ROOTS |= {"diffusers", "deepinv", "taming"}
FOREIGN_BASES = {  # by name, so that nothing need be imported to check it
    "torch.nn.modules.module.Module",
    "torch.optim.optimizer.Optimizer",
    "torch.optim.lr_scheduler.LRScheduler",
    "pytorch_lightning.callbacks.callback.Callback",
    "pytorch_lightning.loggers.logger.Logger",
    "torchmetrics.metric.Metric",
}
DATA = Path(__file__).resolve().parents[1] / "data"  # our modules, and the users' data sets
RESOLVER = re.compile(r"\$\{[^}]*:")  # ${oc.env:HOME}
PLAIN = re.compile(r"\$\{[^{}:$]*\}")  # ${solver.steps}
_resolvers = False  # whether files may ask for the environment


class Node(dict):
    """A mapping that knows its dotted path and the file each of its keys came from."""

    def __init__(
        self,
        items: Mapping[str, Any] | None = None,
        where: str = "",
        origin: Mapping[str, str] | None = None,
    ):
        super().__init__(items or {})
        self.where = where
        self.origin = dict(origin or {})

    def locate(self, key: str) -> str:
        """`file: dotted.key`, as printed in errors."""
        dotted = f"{self.where}.{key}" if self.where else key
        return f"{self.origin.get(dotted, 'configuration')}: {dotted}"


def admit_resolvers() -> None:
    """Let files look up what is not in them, as `${oc.env:HOME}` does (`--allow-env`)."""
    global _resolvers
    _resolvers = True


def load(files: Sequence[str | Path], overrides: Sequence[str] = ()) -> Node:
    """Merge YAML files left to right, then `key=value` overrides; interpolations are resolved.

    A node whose `target` changes is replaced whole: parameters of the old class do not leak into the new one.
    Raises Refusal naming the file for anything that is not a plain YAML mapping.
    """
    merged: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for file in files:
        _merge(merged, _read(Path(file)), "", str(file), origin)
    for override in overrides:
        key, sign, _ = override.partition("=")
        if not sign or not key:
            raise Refusal(f"command line: {override!r} is not of the form key=value")
        try:
            patch = OmegaConf.to_container(OmegaConf.from_dotlist([override]))
        except (OmegaConfBaseException, yaml.YAMLError) as error:
            raise Refusal(f"command line: {override!r}: {first_line(error)}") from None
        _merge(merged, typing.cast(dict, patch), "", "command line", origin)
    try:
        resolved = OmegaConf.to_container(OmegaConf.create(merged), resolve=True)
    except (OmegaConfBaseException, RecursionError) as error:
        endless = isinstance(error, RecursionError)
        reason = "interpolations lead back to themselves" if endless else first_line(error)
        raise Refusal(f"{', '.join(map(str, files))}: {reason}") from None
    for asked, found in zip(_strings(merged), _strings(resolved)) if _resolvers else ():
        if _asks(asked):
            conceal(found)
    return _node(typing.cast(dict, resolved), "", origin)


def dump(config: Mapping[str, Any]) -> str:
    """The configuration as YAML, keys in the order they were written."""
    style = dict(sort_keys=False, allow_unicode=True, default_flow_style=None, width=125)
    return yaml.safe_dump(plain(config), **style)


def build(node: Any, **extra: Any) -> Any:
    """Turn {target, params} into the object; inner nodes first, so constructors receive objects, never configs.

    extra: arguments the program supplies itself; they are not allowed in the file.
    """
    if isinstance(node, Mapping) and "target" in node:
        node = node if isinstance(node, Node) else _node(dict(node), "", {})
        stray = [key for key in node if key not in ("target", "params")]
        if stray:
            raise Refusal(f"{node.locate(stray[0])}: unknown key beside 'target' and 'params'")
        given = node.get("params") or {}
        if not isinstance(given, Mapping):
            raise Refusal(f"{node.locate('params')}: must be a mapping, not {given!r}")
        target, params = former.today(node["target"], given)
        cls = resolve(target, node.locate("target"))
        params = Node(params, f"{node.where}.params" if node.where else "params", node.origin)
        arguments = {key: build(value) for key, value in params.items()}
        signatures.check(cls, arguments, extra, params.locate)
        try:
            return cls(**arguments, **extra)
        except Refusal as error:
            raise Refusal(f"{node.locate('params')}: {first_line(error)}") from error
        except Exception as error:
            if not _foreign(cls, error):
                raise
            if cls.__module__.split(".")[0] in plugins.NAMES:
                plugins.show(error)
            reason = f"{node['target']} cannot be built from these ({type(error).__name__}: {first_line(error)})"
            raise Refusal(f"{node.locate('params')}: {reason}") from error
    if isinstance(node, Mapping):
        return {key: build(value) for key, value in node.items()}
    if isinstance(node, list):
        return [build(value) for value in node]
    return node


def _foreign(cls: type, error: Exception) -> bool:
    """Whether an error came up in code that is not ours: what a library or a plug-in does not take is for the user to mend."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    where = str(frames[-1].f_globals.get("__name__", ""))
    return not {cls.__module__.split(".")[0], where.split(".")[0]} <= OURS


def resolve(target: Any, where: str = "target") -> type:
    """The class a dotted target names. Raises ValueError for functions, foreign classes and misspelt names."""
    if not isinstance(target, str) or "." not in target:
        raise Refusal(f"{where}: {target!r} is not a dotted class name")
    module_name, _, name = former.renamed(target).rpartition(".")
    root = target.split(".")[0]
    if root not in OURS | FOREIGN_ROOTS | plugins.NAMES:
        raise Refusal(
            f"{where}: {target!r} is not a class of this program (a module of your own needs --plugin {root})"
        )
    folder, _, rest = module_name.partition(".")
    if folder == "data" and _of_the_user(rest.split(".")[0]):
        raise Refusal(
            f"{where}: {target!r} lies in a folder of data/ that is not the program's, where data sets are unpacked"
        )
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise Refusal(f"{where}: {target!r} cannot be imported ({first_line(error)})") from None
    found = getattr(module, name, None)
    if found is None:
        classes = [n for n, value in vars(module).items() if inspect.isclass(value)]
        raise Refusal(f"{where}: {module_name} has no {name!r}{nearest(name, classes)}")
    if not inspect.isclass(found):
        raise Refusal(f"{where}: {target!r} is not a class")
    home = found.__module__.split(".")[0]
    bases = {f"{base.__module__}.{base.__qualname__}" for base in found.__mro__}
    if home not in OURS | plugins.NAMES and not bases & FOREIGN_BASES:
        raise Refusal(
            f"{where}: {target!r} is not of an allowed kind (network, optimiser, schedule, callback, logger, metric)"
        )
    return found


def _of_the_user(name: str) -> bool:
    """Whether data/<name> is a folder of images, whose Python files are nobody's that is trusted here."""
    return name not in ("formats", "prepare") and (DATA / name).is_dir()


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text("utf-8")
        bound_yaml(text, path)
        content = OmegaConf.to_container(OmegaConf.load(io.StringIO(text)))
    except FileNotFoundError:
        raise Refusal(f"{path}: no such configuration file") from None
    except Refusal:
        raise
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
        # ValueError: not UTF-8, or no such date
        raise Refusal(f"{path}: {first_line(error)}") from None
    if not isinstance(content, dict):
        raise Refusal(f"{path}: must hold a mapping, not a {type(content).__name__}")
    if not _resolvers and any(map(_asks, _strings(content))):
        raise Refusal(
            f"{path}: resolvers such as ${{oc.env:…}} read what the file does not hold; --allow-env lets them"
        )
    return typing.cast(dict, content)


def _strings(value: Any) -> Iterator[str]:
    """Every text in nested mappings and lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (Mapping, list)):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(inner)


def _asks(text: str) -> bool:
    """Whether a text calls a resolver: what is left of it without plain interpolations, innermost first."""
    before = ""
    while text != before and not RESOLVER.search(text):
        text, before = PLAIN.sub("", text), text
    return bool(RESOLVER.search(text))


def _merge(into: dict, new: Mapping, where: str, source: str, origin: dict[str, str]) -> None:
    for key, value in new.items():
        dotted = f"{where}.{key}" if where else str(key)
        origin[dotted] = source
        if value is None and ":" in str(key):  # YAML's reading of {0:32}
            raise Refusal(f"{source}: {dotted}: the colon needs a space after it")
        old = into.get(key)
        if isinstance(value, Mapping):
            named = isinstance(old, dict) and "target" in old and "target" in value
            if not isinstance(old, dict) or (named and old["target"] != value["target"]):
                into[key] = {}
            _merge(into[key], value, dotted, source, origin)
        else:
            into[key] = value


def _node(value: Any, where: str, origin: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        inner = {k: _node(v, f"{where}.{k}" if where else str(k), origin) for k, v in value.items()}
        return Node(inner, where, origin)
    if isinstance(value, list):
        return [_node(v, f"{where}[{i}]", origin) for i, v in enumerate(value)]
    return value


def plain(value: Any) -> Any:
    """Nested plain dicts and lists, as checkpoints and YAML take them."""
    if isinstance(value, Mapping):
        return {k if isinstance(k, int) else str(k): plain(inner) for k, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return value
