"""docs/extend.md is a promise: its files, written into an empty folder, run; and what goes wrong in a plug-in is shown."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import tiny
import torch
from analytic import latent, patched

import sample
from data.files import Refusal
from ldm import config, plugins

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
