"""The door and the user's mistakes: one line that says what is wrong, exit code 2, and no results."""

import json
from pathlib import Path

import pytest
import tiny
import torch

import sample
from data import formats


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Nothing in it is changed by a test."""
    return tiny.world(tmp_path_factory.mktemp("world"))


def run(world: Path, out: Path, *more: str, **choices: str) -> int:
    return sample.main(tiny.words(world, out, *more, **choices))


BAD = {  # words -> what the line must say
    ("--task", "super_resolutoin"): "did you mean 'super_resolution'?",
    ("--solver", "resampel"): "did you mean 'resample'?",
    ("--model", "no/such/model"): "no/such/model: no such file or folder",
    ("--task", "WORLD/codps.yaml"): "codps.yaml: is none of the tasks, it has no `operator:`",
    ("--task", "mri_x4", "mri_x4.yaml"): "would be called 'mri_x4-codps'",
    ("--data-root", "no/such/folder"): "no such folder",
    ("--data-root", ""): "an argument is empty",
    ("--split", "tset"): "split 'tset'",
    ("--tsak", "x"): "did you mean '--task'?",
    ("--gpu", "0"): "use --accelerator",
    ("--steps", "0"): "not a whole number",
    ("--precision", "8"): "invalid choice",
    ("--list",): "expected one argument: tasks, solvers, models, operators",
    ("--task", "mri", "--measurements"): "mri restores what a scanner measured: give k-space",
    ("--task", "ct", "--measurements"): "ct restores what a scanner measured: give a sinogram",
    ("--accelerator", "tpu"): "invalid choice",
    ("--accelerator", "mps"): "not available",
    ("--devices", "many"): "not a whole number",
    ("solver.params.stps=3",): "did you mean 'steps'?",
    ("solver.params.steps=many",): "not of type int",
    ("sovler.params.steps=3",): "did you mean 'solver'?",
    ("solver=x",): "'x' is no solver",
    ("operator=3",): "3 is no operator",
    ("prior=3",): "prior: 3 is no model",
    ("prior.label=3",): "prior.label 3: the network is unconditional",
    ("--model", "WORLD/classes"): "choose a class with prior.label=N, N from 0 to 4",
    ("--model", "WORLD/classes", "prior.label=5"): "prior.label 5: 0 to 4 are allowed",
    ("--model", "WORLD/classes", "prior.label=-1"): "prior.label -1: 0 to 4 are allowed",
    ("--model", "WORLD/classes", "prior.label=x"): "prior.label 'x': 0 to 4 are allowed",
    ("--seeds", "3-1"): "not of the form",
    ("--seeds", "0-99999999999"): "at most 10,000,000",
    ("--start", "7"): "leaves none of 3",
    ("--seeds", "0-3"): "--seeds means nothing with a task",
    ("--manifest", "m.csv"): "--data-root and --manifest",
    ("--num-runs", "2", "--num-samples", "2"): "--num-runs and --num-samples",
    ("--oracle",): "--oracle chooses among --num-runs",
    ("--diffusion-config", "weights.ckpt"): "old name of",
    ("--precision", "16-mixed"): "needs a GPU",
    ("--plugin", "no_such_module"): "no_such_module",
    ("--save-dir", "/proc/nothing"): "cannot be written",
}


if not torch.cuda.is_available():
    BAD[("--accelerator", "gpu")] = "this machine has 0 GPUs"


@pytest.mark.parametrize("more", BAD, ids=" ".join)
def test_mistakes_give_one_line_and_exit_2(
    world: Path, tmp_path: Path, capsys, more: tuple[str, ...]
):
    assert run(world, tmp_path / "out", *(word.replace("WORLD", str(world)) for word in more)) == 2
    assert BAD[more] in tiny.refusal(capsys)
    assert not (tmp_path / "out/records.jsonl").exists()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: no"),
        MemoryError(),
    ],
    ids=repr,
)
def test_out_of_memory_says_what_to_lower(
    world: Path, tmp_path: Path, capsys, monkeypatch, error: Exception
):
    def exhausted(*_):
        raise error

    monkeypatch.setattr("solvers.run.draws.Drawing.draw", exhausted)
    assert run(world, tmp_path, "--limit", "1") == 2
    assert "lower --batch-size" in tiny.refusal(capsys)


def test_measurements_are_the_users_own(capsys):
    assert sample.main(["--measurements"]) == 2
    assert "needs --data-root or --manifest" in tiny.refusal(capsys)


def test_a_latent_only_solver_on_a_pixel_prior_is_refused_before_any_network_runs(
    world: Path, tmp_path: Path, capsys
):
    tiny.solver(tmp_path / "psld.yaml", "psld.PSLD", steps=2)
    assert run(world, tmp_path / "out", "--solver", str(tmp_path / "psld.yaml")) == 2
    assert "PSLD needs a latent prior" in tiny.refusal(capsys) and not (tmp_path / "out").exists()


def test_an_image_whose_size_does_not_fit_is_continued_and_cut_back(world: Path, tmp_path: Path):
    tiny.scans(tmp_path / "odd", 1, (15, 13))
    assert run(world, tmp_path / "out", "--data-root", str(tmp_path / "odd")) == 0
    (record,) = map(json.loads, (tmp_path / "out/records.jsonl").read_text().splitlines())
    assert "15×13 image continued to 16×16 by its edges, and cropped back" in record["notes"][0]
    assert formats.read(tmp_path / "out" / record["files"]["recon"]).pixels.shape == (1, 15, 13)
