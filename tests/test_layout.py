"""The house: who may import whom (DESIGN section 2), no cycles inside a room, no junk-drawer names."""

import ast
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
ROOMS = ("data", "ldm", "solvers")
LEAVES = ("data.files", "data.bounded_yaml", "data.ranges", "data.seeding")
MAY_IMPORT = {
    "data": {"data"},
    "ldm": {"ldm", *LEAVES},
    "solvers": {"solvers", "ldm.schedule", "ldm.denoiser", "ldm.sampling", "ldm.volume", *LEAVES},
    "solvers/operators": {
        "solvers",
        "ldm.denoiser",
        *LEAVES,
        "data.formats",
    },  # masks and kernels may be files
    "solvers/measured": {
        "solvers",
        *LEAVES,
        "data.formats",  # what scanners write
        "ldm.denoiser",  # a blur kernel is found with what a prior knows of images
        "ldm.sampling",
    },
    "solvers/run": {
        "solvers",
        "ldm.schedule",
        "ldm.denoiser",
        "ldm.catalogue",
        "ldm.plugins",
        "ldm.config",
        "ldm.resize",
        "ldm.sampling",
        "data",
    },
}
LIGHTNING_SKINS = {
    "ldm/training/autoencoder.py",
    "ldm/training/diffusion.py",
    "ldm/training/callbacks.py",
    "ldm/training/saving.py",
    "ldm/training/watching.py",
    "ldm/training/run.py",
    "data/datamodule.py",
    "solvers/run/module.py",
    "solvers/run/restoration.py",
    "solvers/run/trainer.py",
    "solvers/run/writer.py",
    "palimpsest.py",
}


def sources() -> list[Path]:
    rooms = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    return (
        rooms
        + [ROOT / "main.py", ROOT / "sample.py", ROOT / "palimpsest.py"]
        + sorted((ROOT / "scripts").glob("*.py"))
    )


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path) for path in sources()}


def imports(path: Path) -> set[str]:
    """Modules a file imports; `from a import b` counts as a.b where that is a module of ours."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            joined = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in joined}
    return found


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_follow_the_table(path: Path):
    place = str(path.relative_to(ROOT))
    room = next(
        r
        for r in ("solvers/run", "solvers/operators", "solvers/measured", place.split("/")[0])
        if place.startswith(r)
    )
    ours = {
        name
        for name in imports(path)
        if name.split(".")[0] in (*ROOMS, "main", "sample", "scripts", "tests")
    }
    if room in MAY_IMPORT:
        allowed = MAY_IMPORT[room]
        never = "data.prepare" if room == "solvers/run" else "solvers.run"
        bad = {
            name
            for name in ours
            if name.startswith(never)
            or not any(name == a or name.startswith(a + ".") for a in allowed)
        }
    else:
        bad = {
            name for name in ours if name.split(".")[0] in ("main", "sample", "scripts", "tests")
        }
    assert not bad


def test_no_cycles():
    graph = {
        module_name(p): {n for n in imports(p) if n in MODULES} - {module_name(p)}
        for p in sources()
    }
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for other in graph[name]:
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_lightning_is_a_skin():
    users = {
        str(p.relative_to(ROOT))
        for p in sources()
        if any(n.split(".")[0] == "pytorch_lightning" for n in imports(p))
    }
    assert users <= LIGHTNING_SKINS


def test_no_junk_drawers():
    assert not [p for p in sources() if p.stem in ("utils", "helpers", "common", "misc")]


def test_environment_installs_what_pyproject_does():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    environment = yaml.safe_load((ROOT / "environment.yaml").read_text())
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert sorted(pip) == sorted([*project["dependencies"], "-e ."])
    assert f"python{project['requires-python']}" in environment["dependencies"]


def test_algorithms_stand_among_few_files():
    """At most 22 files in solvers/ beside its folders, and hardly any that asks what kind of prior it is."""
    files = sorted((ROOT / "solvers").glob("*.py"))
    assert len(files) <= 22
    rooms = [*files, *(ROOT / "solvers/published").glob("*.py"), ROOT / "ldm/sampling.py"]
    shared = ("beliefs.py", "problem.py", "solver.py")
    assert (
        sum(path.read_text().count("prior.kind") for path in rooms if path.name not in shared) <= 3
    )


def test_a_file_is_read_in_one_sitting():
    assert not [path for path in sources() if len(path.read_text().splitlines()) > 260]
