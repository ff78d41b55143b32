"""Help, lists and mistakes come before torch does: which modules are imported, and how much processor time it takes."""

import inspect
import json
import os
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from analytic import isotropic, latent, patched

import main
import sample
from data.seeding import Noise
from ldm import catalogue, config
from ldm.sampling import Sampler
from solvers import operators
from solvers.operators.base import LinearOperator
from solvers.problem import Gaussian, measure
from solvers.run import listing
from solvers.solver import check

ROOT = Path(__file__).parents[1]
SECONDS = 1.5  # of processor time
HEAVY = {"torch", "numpy", "pytorch_lightning", "diffusers", "pydicom", "nibabel", "scipy", "PIL"}
PIXEL = "configs/pixel-diffusion/demo.yaml"
OVERLAY = (
    "--base",
    "configs/latent-diffusion/ffhq-ldm-vq-4.yaml",
    "configs/projects/medical_super_resolution.yaml",
)
SAID = {  # door and words -> what comes out
    ("main", "--help"): "--base F...",
    ("sample", "--help"): "--data-root DIR",
    ("sample", "--list", "tasks"): "ct_parallel_20",
    ("sample", "--list", "solvers"): "pixel or patch prior, linear operator",
    ("sample", "--list", "models"): "demo-latent  latent prior",
    ("sample", "--list", "operators"): "PhaseRetrieval           nonlinear",
    ("main", "--list", "models"): "demo-pixel",
    ("sample", "--tsak", "x"): "did you mean '--task'?",
    ("sample", "--task", "super_resolutoin"): "did you mean 'super_resolution'?",
    ("sample", "--solver", "resampel"): "did you mean 'resample'?",
    ("sample", "--model", "demo-pixle"): "did you mean 'demo-pixel'?",
    ("sample", "--list", "task"): "invalid choice: 'task'",
    ("sample", "--precision", "8"): "invalid choice",
    ("sample", "--steps", "0"): "not a whole number",
    ("sample", "--window", "5:1"): "LOW:HIGH",
    ("sample", "--data-root", "no/such/folder"): "no such folder",
    ("sample", "--base", "no.yaml"): "no such configuration file",
    ("sample", "--gpu", "0"): "use --accelerator",
    ("sample", "sovler.params.steps=3"): "did you mean 'solver'?",
    ("sample", "--print-config"): "target: solvers.pnp.PnP",
    ("main", "--base", PIXEL, "--max-stesp", "3"): "did you mean '--max-steps'?",
    ("main", "--base", PIXEL, "--max_steps", "many"): "'many' is not of type",
    ("main", "--base", PIXEL, "--precision", "bf17"): "'bf17' is not of type",
    ("main", "--base", "no.yaml"): "no such configuration file",
    ("main", "--base", PIXEL, "modle.params.seed=3"): "did you mean 'model'?",
    ("main", "--train"): "required: -b/--base",
    ("main", "--base", PIXEL, "--init", "no.ckpt"): "no.ckpt: no such file or folder",
    ("main", "--base", PIXEL, "--first-stage", "no.ckpt"): "no.ckpt: no such file or folder",
    ("main", "--base", PIXEL, "--resume", "no.ckpt"): "no.ckpt: no such",
    (
        "main",
        "--train",
        *OVERLAY,
    ): "--init MODEL begins with a whole model, --first-stage RUN|FOLDER|FILE with an autoencoder",
    (
        "main",
        "--train",
        "--base",
        "configs/latent-diffusion/medical-vq-4.yaml",
    ): "train the autoencoder first",
}
SCRIPT = """
import contextlib, io, json, sys, time
door, *words = json.loads(sys.argv[1])
said = io.StringIO()
with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
    module = __import__(door)
    try:
        code = module.main(words)
    except SystemExit as end:
        code = end.code
print(json.dumps([code or 0, said.getvalue(), time.process_time(), sorted(m for m in sys.modules if "." not in m)]))
"""


@pytest.mark.parametrize("words", SAID, ids=" ".join)
def test_help_lists_and_mistakes_come_without_torch(words):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    code, said, seconds, modules = json.loads(done.stdout)
    asked = {"--help", "--list", "--print-config"} & set(words) and "task" not in words
    assert SAID[words] in said and code == (0 if asked else 2), said
    assert not HEAVY & set(modules)
    assert seconds < SECONDS


def test_the_trainer_that_is_read_is_the_one_that_is_installed():
    ours, installed = main.TRAINER.__init__, pl.Trainer.__init__
    assert list(inspect.signature(ours).parameters) == list(inspect.signature(installed).parameters)
    hints, theirs = typing.get_type_hints(ours), typing.get_type_hints(installed)
    words = lambda hint: {word for part in typing.get_args(hint) for word in typing.get_args(part)}  # noqa: E731
    assert (
        words(hints["precision"]) == words(theirs["precision"])
        and hints["max_steps"] == theirs["max_steps"]
    )


@pytest.mark.parametrize("flag", ["--max_steps", "--max-steps", "--MAX_steps"])
def test_flags_are_spelt_in_one_way(flag):
    options, _ = main.parse(["--base", "a.yaml", flag, "3"])
    assert options.max_steps == 3
    options, _ = sample.parse(
        [flag.replace("max", "ddim").replace("MAX", "DDIM"), "3", "--window", "-1000:400"]
    )
    assert options.steps == 3 and options.window == ("values", -1000, 400)


def needs(solver) -> str:
    """What a solver refuses, in the words of `--list`."""
    shape, priors = (
        (1, 8, 8),
        {"pixel": isotropic((1, 8, 8)), "patch": patched(8, 3), "latent": latent((1, 8, 8))},
    )

    def takes(prior, operator) -> bool:
        noise = Noise(["a"], "noise")
        x = 0.5 * noise.normal((1, *shape), torch.float64)
        try:
            check(
                solver,
                measure(operator.draw(shape, noise), x, Gaussian(0.05), noise),
                priors[prior],
            )
        except ValueError:
            return False
        return True

    taken = [prior for prior in priors if takes(prior, operators.SuperResolution(2))]
    kinds = [] if len(taken) == 3 else [f"{' or '.join(taken)} prior"]
    return ", ".join(
        kinds + ["linear operator"] * (not takes(taken[0], operators.HighDynamicRange()))
    )


def test_solvers_need_what_their_list_says():
    for entry in listing.entries("solvers"):
        solver = config.build(config.load([catalogue.settings("solvers", entry.name)])["solver"])
        assert entry.needs == ("no task" if isinstance(solver, Sampler) else needs(solver)), (
            entry.name
        )


def test_operators_are_what_their_list_says():
    entries = {entry.name: entry for entry in listing.entries("operators")}
    assert sorted(entries) == sorted(operators.__all__) and all(
        entry.line for entry in entries.values()
    )
    for name, entry in entries.items():
        try:
            drawn = getattr(operators, name)().draw((1, 16, 16), Noise(["a"], "noise"))
        except (TypeError, ValueError):  # needs a file or parts; a class that says what it is
            drawn = None
        if drawn is not None:
            assert entry.needs == (
                "linear" if isinstance(drawn, LinearOperator) else "nonlinear"
            ), name


def test_tasks_and_models_are_what_their_list_says():
    for entry in listing.entries("tasks"):
        name = config.load([catalogue.settings("tasks", entry.name)])["operator"][
            "target"
        ].rpartition(".")[2]
        assert ("nonlinear solver" in entry.needs) == (name in listing.NONLINEAR), entry.name
    assert [entry.needs for entry in listing.entries("models")] == [
        "latent prior",
        "patch prior",
        "pixel prior",
    ]


def test_aliases_stand_apart():
    table, _, others = listing.text("tasks").partition("\n\n")
    assert "gaussian_blur " not in table and "gaussian_blur            gaussian_deblur" in others
    rows = [line.split()[0] for line in table.splitlines()]
    assert rows == sorted(rows)


@pytest.mark.parametrize(
    "line, among",
    [("--sol", "--solver"), ("--task gauss", "gaussian_deblur"), ("--model demo-p", "demo-patch")],
)
def test_the_shell_completes_flags_and_names(line, among):
    pytest.importorskip("argcomplete")
    words = f"sample.py {line}"
    asked = {
        "_ARGCOMPLETE": "1",
        "COMP_LINE": words,
        "COMP_POINT": str(len(words)),
        "_ARGCOMPLETE_IFS": " ",
    }
    script = f"exec {sys.executable} sample.py 8>&1 1>/dev/null 9>&2"  # where argcomplete answers
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=ROOT,
        env=os.environ | asked,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert among in done.stdout.split()
