"""--first-stage: weights and architecture of an autoencoder out of a run, folder or file; and best.ckpt, which every run has."""

from pathlib import Path

import pytest
import runs
import tiny
import torch
import yaml
from runs import CODEBOOK, arguments, data, last, trainable  # noqa: F401

import main
from ldm import checkpoints


@pytest.fixture(scope="module")
def wide(data, tmp_path_factory):  # noqa: F811
    """A run of an autoencoder that is another one than the latent configuration describes; three steps, no validation."""
    where = tmp_path_factory.mktemp("wide")
    changed = yaml.safe_load(yaml.safe_dump(tiny.STAGE))
    model = changed["params"]["model"]["params"]
    model["widths"] = [2 * width for width in model["widths"]]
    runs.OTHERS["wide"] = trainable(
        "first_stage", changed, "autoencoder.Autoencoder", bottleneck=CODEBOOK
    )
    assert main.main(arguments(data, where, "wide", "--max_steps", "3")) == 0
    return where / "p/wide"


def test_every_run_has_a_best_checkpoint(wide):
    best, final = (
        torch.load(wide / f"checkpoints/{name}.ckpt", weights_only=True)
        for name in ("best", "last")
    )
    assert best["global_step"] == final["global_step"] == 3


@pytest.mark.parametrize("named", ["run", "file", "folder"])
def test_weights_and_architecture_are_taken(named, wide, data, tmp_path):  # noqa: F811
    source: Path = {
        "run": wide,
        "file": wide / "checkpoints/last.ckpt",
        "folder": tmp_path / "exported",
    }[named]
    if named == "folder":
        checkpoints.export(checkpoints.describe(wide), source)
    words = arguments(data, tmp_path, "latent", "--max_steps", "1", "--first-stage", str(source))
    assert main.main(words) == 0
    prior, stage = checkpoints.load(tmp_path / "p/latent"), checkpoints.first_stage(wide)
    assert all(
        torch.equal(value, prior.first_stage.state_dict()[key])
        for key, value in stage.state_dict().items()
    )
    assert main.main([*words[:-3], "2", *words[-2:]]) == 0  # goes on, of the same configuration
    assert last(tmp_path, "latent")["global_step"] == 2


def test_a_random_autoencoder_is_refused_unless_asked_for(data, tmp_path, capsys):  # noqa: F811
    words = [
        w
        for w in arguments(data, tmp_path, "latent", "--max_steps", "1")
        if w not in ("--first-stage", "random")
    ]
    assert main.main(words) == 2
    said = capsys.readouterr().err
    assert (
        "prior.params.first_stage: has no weights" in said
        and "--init MODEL" in said
        and "--first-stage random" in said
    )


def test_only_latent_priors_take_one(wide, data, tmp_path, capsys):  # noqa: F811
    assert (
        main.main(
            arguments(data, tmp_path, "pixel", "--max_steps", "1", "--first-stage", str(wide))
        )
        == 2
    )
    assert "only a latent prior has a first stage" in capsys.readouterr().err


def test_training_without_validation_says_so_and_marks_its_weights(data, tmp_path, capsys):  # noqa: F811
    words = arguments(
        data,
        tmp_path,
        "pixel",
        "--max_steps",
        "4",
        "--limit_val_batches",
        "1.0",
        "data.params.validation=null",
    )
    assert main.main(words) == 0
    assert "training images, because no validation images were named" in capsys.readouterr().out
    described = checkpoints.describe(tmp_path / "p/pixel")
    assert described.path.name == "best.ckpt" and "training images" in described.notes[0]
    assert described.build().variances  # measured all the same
    card = (checkpoints.export(described, tmp_path / "model") / "README.md").read_text()
    assert "error spectra are of training images" in card
