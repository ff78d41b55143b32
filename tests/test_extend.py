"""docs/extend.md is a promise: its files, written into an empty folder, run; and what goes wrong in a plug-in is shown."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import tiny
import torch
from analytic import latent, patched
from operator_list import LINEAR

import sample
from data.files import Refusal
from data.seeding import Noise
from ldm import config, plugins
from solvers import operators
from solvers.operators import trial, volume

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / "docs/extend.md").read_text(), re.S | re.M)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder to work in; modules that are imported out of it are forgotten afterwards."""
    place = tmp_path / "mine"
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(plugins, "NAMES", set())
    before = set(sys.modules)
    yield place
    for name in set(sys.modules) - before:
        if name.startswith("my_"):
            del sys.modules[name]


def test_every_file_is_written_and_every_command_runs(folder):
    world = tiny.world(folder.parent / "world")
    tiny.scans(folder / "scans", 2)
    for kind, text in BLOCKS:
        if kind != "sh":
            name = re.match(r"# (\S+)", text)[1]
            (folder / name).write_text(text)
            continue
        door, *words = shlex.split(text)[1:]
        assert door == "sample.py"
        own = ["--model", str(world / "pixel"), "--accelerator", "cpu"]
        own += (
            []
            if "--task" in words
            else ["--task", str(ROOT / "configs/tasks/inpainting_random.yaml")]
        )
        own += [] if "--solver" in words else ["--steps", "3"]
        assert sample.main([*words, *own]) == 0
        records = tiny.records(Path(words[words.index("--save-dir") + 1]))
        assert len(records) == 2 and all(record["status"] == "ok" for record in records.values())
    assert len(BLOCKS) == 6


def test_the_operator_is_one(folder):
    scope: dict = {}
    exec(next(text for _, text in BLOCKS if "class EveryOtherColumn" in text), scope)
    operator = scope["EveryOtherColumn"]()
    x = torch.randn(2, 1, 4, 6, dtype=torch.float64)
    y = torch.randn(2, 1, 4, 3, dtype=torch.float64)
    assert torch.allclose((operator.forward(x) * y).sum(), (x * operator.adjoint(y)).sum())
    assert torch.allclose(operator.forward(operator.adjoint(y)), y)


BROKEN = {
    "import of what there is not": (
        "import no_such_package\n",
        "No module named 'no_such_package'",
    ),
    "syntax": ("def f(:\n", "invalid syntax"),
    "run time": (
        "def inner():\n    return 1 / 0\n\n\ninner()\n",
        "ZeroDivisionError: division by zero",
    ),
}


@pytest.mark.parametrize("why", BROKEN)
def test_the_traceback_of_a_plug_in_is_shown(why, folder, capsys):
    text, reason = BROKEN[why]
    (folder / "my_broken.py").write_text(text)
    assert sample.main(["--plugin", "my_broken"]) == 2
    said = capsys.readouterr().err
    assert (
        said.splitlines()[-1].startswith("sample.py: --plugin my_broken: ")
        and reason in said.splitlines()[-1]
    )
    assert text.splitlines()[-1] in said and "my_broken.py" in said and "importlib" not in said


def test_a_module_that_is_not_there_is_one_line(folder, capsys):
    assert sample.main(["--plugin", "my_absent"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_class_that_cannot_be_built_shows_where(folder, capsys):
    (folder / "my_class.py").write_text(
        "class Mine:\n    def __init__(self, a: int = 3):\n        self.b = [][a]\n"
    )
    plugins.admit("my_class")
    with pytest.raises(Refusal, match="my_class.Mine cannot be built"):
        config.build({"target": "my_class.Mine", "params": {}})
    assert "self.b = [][a]" in capsys.readouterr().err


def test_a_prior_is_called_as_its_denoiser():
    prior = patched(8, 3)
    x = prior.to_state(torch.zeros(2, 1, 8, 8, dtype=torch.float64))
    level = torch.full((2,), 0.5, dtype=torch.float64)
    assert torch.equal(prior(x, 0.5), prior.denoise(x, level)) and torch.equal(
        prior(x, level), prior.denoise(x, level)
    )


def test_a_state_of_the_wrong_shape_is_one_line():
    image = torch.zeros(2, 1, 8, 8, dtype=torch.float64)
    with pytest.raises(
        Refusal, match=r"a state of shape \[2, 1, 8, 8\]: a patch prior has states \[B,1,\d+,\d+\]"
    ):
        patched(8, 3)(image, 0.5)
    with pytest.raises(Refusal, match="a latent prior has states"):
        latent((1, 8, 8))(image[:, :, None], 0.5)


PLAIN = """
import os
from dataclasses import dataclass
from solvers.operators.base import LinearOperator, Operator
from solvers.solver import Solver

class Half(LinearOperator):
    def forward(self, x):
        return x / 2
    def adjoint(self, y):
        return y / 2
    def solve(self, r, s2, v):
        return r / (s2 + v / 4)
"""
WRONG = {  # a class, what is refused of it, and by how much
    "sign": ("adjoint(self, y):\n        return -y / 2", "adjoint is wrong.* is off by 2 of"),
    "scale": ("adjoint(self, y):\n        return y / 2.02", "adjoint is wrong.* is off by 0.0099"),
    "shape": (
        "adjoint(self, y):\n        return y[..., 1:]",
        r"adjoint gives \[1, 1, 16, 15\]; \[1, 1, 16, 16\]",
    ),
    "nonlinear": ("forward(self, x):\n        return x.abs() / 2", "is not linear"),
    "affine": ("forward(self, x):\n        return x / 2 + 1", "is not linear"),
    "gram": ("gram(self, r):\n        return r / 2", "gram is wrong.* is off by 1 of"),
    "solve": ("solve(self, r, s2, v):\n        return r / (s2 + v / 2)", "solve is wrong"),
}


def own(folder: Path, body: str, name: str) -> Path:
    """A task whose operator is `Mine`, of this body, in a module of this name."""
    (folder / f"{name}.py").write_text(f"{PLAIN}\n\n{body}")
    task = tiny.task(folder / f"{name}.yaml")
    task.write_text(task.read_text().replace("solvers.operators.SuperResolution", f"{name}.Mine"))
    return task


def said(folder: Path, task: Path, capsys, *words: str) -> tuple[int, str]:
    """The exit code of a run with a plug-in, and the last line on stderr."""
    world = tiny.folder(folder / "world", tiny.pixel())
    data = tiny.scans(folder / "scans", 1)
    words = words or ("--solver", str(tiny.solver(folder / "s.yaml", steps=2)))
    told = ["--task", task, "--plugin", task.stem, "--data-root", data, "--model", world]
    argv = [*told, "--save-dir", folder / "out", "--accelerator", "cpu", *words]
    code = sample.main(list(map(str, argv)))
    return code, capsys.readouterr().err


@pytest.mark.parametrize("why", WRONG)
def test_an_operator_that_is_not_what_it_says_is_refused(why, folder, capsys):
    body, reason = WRONG[why]
    task = own(folder, f"class Mine(Half):\n    def {body}\n", f"my_{why}")
    code, err = said(folder, task, capsys)
    assert code == 2 and err.count("\n") == 1 and re.search(f"Mine.*{reason}", err), err


@pytest.mark.parametrize("inside", ["Composition", "volume.Slicewise"])
def test_an_operator_in_another_is_tried_too(inside, folder):
    own(folder, f"class Mine(Half):\n    def {WRONG['sign'][0]}\n", "my_inner")
    plugins.admit("my_inner")
    mine, like = sys.modules["my_inner"].Mine(), torch.zeros((), dtype=torch.float64)
    made = operators.Composition([operators.Denoising(), mine])
    shape = (1, 4, 4)
    if inside != "Composition":
        made, shape = volume.Slicewise(mine), (1, 3, 4, 4)
    with pytest.raises(Refusal, match="Mine: its adjoint is wrong"):
        trial.check(made.draw(shape, Noise(("a",), "noise")), shape, like, False)


@pytest.mark.parametrize("case", LINEAR, ids=lambda case: case.name)
def test_no_operator_that_is_right_would_be_refused(case):
    operator = case.drawn().select([0])
    for dtype in (torch.float32, torch.float64):
        trial._check(operator, torch.zeros(1, *case.shape, dtype=dtype), False)


def test_an_operator_needs_forward_alone(folder, capsys):
    task = own(
        folder, "class Mine(Operator):\n    def forward(self, x):\n        return x**3\n", "my_cube"
    )
    daps = tiny.solver(folder / "s.yaml", "daps.DAPS", steps=2)
    assert said(folder, task, capsys, "--solver", str(daps))[0] == 0


def test_a_forward_without_a_derivative_is_one_line(folder, capsys):
    body = "class Mine(Operator):\n    def forward(self, x):\n        return x.detach() ** 3\n"
    daps = tiny.solver(folder / "s.yaml", "daps.DAPS", steps=2)
    code, err = said(folder, own(folder, body, "my_detach"), capsys, "--solver", str(daps))
    assert code == 2 and err.count("\n") == 1 and "Mine.forward has no derivative" in err


@pytest.mark.parametrize("lacks", ["levels", "sample"])
def test_a_solver_that_lacks_a_method_is_one_line(lacks, folder, capsys):
    has = {"levels": "sample(self, chain):", "sample": "levels(self, problem, prior):"}[lacks]
    lame = f"@dataclass(frozen=True)\nclass Lame(Solver):\n    steps: int = 2\n    def {has}\n"
    body = f"class Mine(Half):\n    pass\n\n{lame}        return [1.0, 0.0]\n"
    task = own(folder, body, f"my_{lacks}")
    (folder / "lame.yaml").write_text(f"solver: {{target: my_{lacks}.Lame}}\n")
    code, err = said(folder, task, capsys, "--solver", "lame.yaml")
    assert code == 2 and err.count("\n") == 1 and f"Lame has no `{lacks}`" in err


def test_what_fails_on_an_image_names_the_plug_in_and_the_traceback(folder, capsys):
    body = (
        "class Mine(Half):\n    def forward(self, x):\n"
        "        return [][0] if os.path.exists('out') else x / 2  # not before the run\n"
    )
    code, err = said(folder, own(folder, body, "my_late"), capsys)
    log = folder / "out/logs/scan0.txt"
    where = f"{folder / 'my_late.py'}, line {len(PLAIN.splitlines()) + 5}"
    assert code == 1 and "[][0]" in log.read_text() and "a bug" not in err
    assert err.splitlines()[-1].endswith(
        f"IndexError: list index out of range ({where}); traceback: {log}"
    )


def test_what_fails_before_the_run_names_the_plug_in_below_its_traceback(folder, capsys):
    body = "class Mine(Half):\n    def adjoint(self, y):\n        return [][0]\n"
    code, err = said(folder, own(folder, body, "my_early"), capsys)
    assert (
        code == 2
        and "return [][0]" in err
        and f"({folder / 'my_early.py'}, line" in err.splitlines()[-1]
    )


def test_the_file_of_a_plug_in_is_its_module(folder):
    (folder / "my_file.py").write_text("")
    assert sample.main(["--plugin", "my_file.py", "--print-config"]) == 0
