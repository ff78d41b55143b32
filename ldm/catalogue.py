"""What a name on the command line means: a settings file of configs/, or a prior and its weights.

Names are looked up without torch, which only `prior` imports.
"""

import re
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

from data.bounded_yaml import read_yaml
from data.files import Refusal, nearest
from ldm import config, former, signatures, trained

if TYPE_CHECKING:
    from ldm.denoiser import Prior

LINE = 120  # characters that a name's description has at most
HOME = Path(__file__).resolve().parents[1]
KEYS = {"tasks": "operator", "solvers": "solver"}  # what a file of configs/<kind>/ describes
PRIOR = (str, dict)  # what a configuration's `prior:` may be: a name, or a description
MODEL, SOLVER = "demo-pixel", "pnp"  # where none is named: the best single image, in seconds
TASK = "super_resolution"  # where none is named
SAMPLERS = "ldm.sampling."  # solvers that draw from the prior and need no task


def settings(kind: str, name: str) -> Path:
    """The file of `configs/<kind>/` that a name or a path means; names of the published scripts are known too.

    Raises Refusal with the valid names, the nearest first.
    """
    if name.endswith((".yaml", ".yml")) and Path(name).is_file():
        return Path(name)
    folder = home(f"configs/{kind}")
    word = Path(name).stem.replace("-", "_").removesuffix("_psld")
    names = {path.stem: path for path in folder.glob("*.yaml") if path.stem != "aliases"}
    others = aliases(kind)
    word = others.get(word) or others.get(
        word.removesuffix("_config"), word.removesuffix("_config")
    )
    if word not in names:
        raise Refusal(f"unknown {kind.rstrip('s')} {name!r}{nearest(name, [*names, *others])}")
    return names[word]


def aliases(kind: str) -> dict[str, str]:
    """Names of the published scripts, and what is called so here."""
    listing = home(f"configs/{kind}") / "aliases.yaml"
    return read_yaml(listing.read_text(), listing) if listing.is_file() else {}


def listing(kind: str) -> dict[str, str]:
    """What there is of a kind, "tasks", "solvers" or "models", by name, and the first line that each says about itself."""
    if kind == "models":
        pages = {
            path.parent.name: path.with_name("README.md")
            for path in home("models").glob("*/config.yaml")
        }
    else:
        pages = {
            path.stem: path
            for path in home(f"configs/{kind}").glob("*.yaml")
            if path.stem != "aliases"
        }
    return {name: _first_words(path) for name, path in sorted(pages.items())}


def _first_words(path: Path) -> str:
    """The first sentence of a settings file's comment, or of a model's card below its title, at most one line of it."""
    lines = path.read_text().splitlines() if path.is_file() else []
    if path.suffix == ".md":
        words = [line for line in lines if line and not line.startswith("#")][:1]
    else:
        words = [
            line.removeprefix("# ") for line in takewhile(lambda line: line.startswith("#"), lines)
        ]
    sentence = re.split(r"(?<!\bal)\.\s+(?!\d)", " ".join(words))[0].removesuffix(".")
    return shorten(sentence, LINE, placeholder=" …")


def home(folder: str) -> Path:
    """A folder of the checkout. Raises Refusal where the program was installed without it."""
    if not (HOME / folder).is_dir():
        raise Refusal(
            f"{HOME}: has no {folder}/; run from a checkout, installed with `pip install -e .`"
        )
    return HOME / folder


def grid(
    base: Sequence[str], tasks: Sequence[str], solvers: Sequence[str], changes: Sequence[str]
) -> dict[str, config.Node]:
    """One merged configuration for each task with each solver, by name; TASK with PnP where none is named."""
    cells = {}
    for task in tasks or [""]:
        for solver in solvers or [""]:
            chosen = [
                settings_of_kind(kind, name)
                for kind, name in (("tasks", task), ("solvers", solver))
                if name
            ]
            known = config.load([*base, *chosen])
            if "solver" not in known:
                chosen.append(settings("solvers", SOLVER))
                known = config.load([*base, *chosen])
            if "operator" not in known and SAMPLERS not in str(known["solver"]):
                chosen.insert(0, settings("tasks", TASK))
            cell = "-".join(path.stem for path in chosen) or Path(base[0]).stem
            if cell in cells:
                raise Refusal(
                    f"two cells of the grid would be called {cell!r}; results need names that differ"
                )
            cells[cell] = config.load([*base, *chosen], changes)
    return cells


def settings_of_kind(kind: str, name: str) -> Path:
    """The file that is meant, if it describes what such files do."""
    path = settings(kind, name)
    if KEYS[kind] not in config.load([path]):
        raise Refusal(f"{path}: is none of the {kind}, it has no `{KEYS[kind]}:`")
    return path


def parameters(kind: str, name: str) -> list[signatures.Setting]:
    """What can be set of a task (operator, likelihood) or a solver, as its file and its class say. kind: "tasks", "solvers"."""
    if kind not in KEYS:
        raise Refusal(f"{kind!r} have no settings; {' or '.join(map(repr, KEYS))} is allowed")
    content = config.load([settings_of_kind(kind, name)])
    found = []
    for part, node in content.items():
        target, given = former.today(node["target"], node.get("params") or {})
        found += signatures.settings(config.resolve(target), given, f"{part}.params")
    return found


def weights(name: str | Path) -> Path:
    """The weight file or model folder that is meant: a path, a name in `models/`, or the folder of a training run.

    Raises Refusal, for what is a name with the shipped models, the nearest first.
    """
    path = next((p for p in (Path(name), HOME / "models" / name, HOME / name) if p.exists()), None)
    if path is None:
        if Path(name).name != str(name) or Path(name).suffix:
            raise Refusal(f"{name}: no such file or folder")
        shipped = list(listing("models"))
        raise Refusal(f"unknown model {str(name)!r}{nearest(str(name), shipped)}")
    return trained.checkpoint(path)


def prior(
    settings: config.Node, model: str | None = None, model_config: str | None = None
) -> "Prior":
    """The weights that `model` names, else those of the configuration's `prior:`, else the shipped latent prior.

    Raises Refusal for a description without weights, and where a class must be chosen or cannot be.
    """
    import torch  # here, because names are looked up long before a network is needed

    from ldm import checkpoints

    given = settings.get("prior", {})
    if not isinstance(given, PRIOR):
        raise Refusal(
            f"{settings.locate('prior')}: {given!r} is no model; a name, or prior.label=N"
        )
    if isinstance(given, dict) and "target" in given and not model:
        described = config.build(given)
        if any(True for _ in described.parameters()) and not described.origin:
            raise Refusal(
                f"{settings.locate('prior')}: describes a network without weights; name them with --model"
            )
        return described
    if isinstance(given, dict) and given.keys() - {"label"}:
        raise Refusal(
            f"{settings.locate('prior')}: is stored with the weights; only prior.label=N can be said here"
        )
    path = weights(model or (given if isinstance(given, str) else MODEL))
    with torch.random.fork_rng(
        devices=[]
    ):  # networks are filled with global random numbers before their weights come
        loaded = checkpoints.load(path, model_config)
    if isinstance(given, dict) and "label" in given:
        try:
            loaded.label = given["label"]
        except Refusal as error:
            raise Refusal(f"{settings.locate('prior')}.{error}") from None
    if loaded.classes and loaded.label is None:
        raise Refusal(
            f"{path}: is class-conditional; choose a class with prior.label=N, N from 0 to {loaded.classes - 1}"
        )
    return loaded
