# ruff: noqa: F811 (a fixture is imported)
"""Whole trainings through main.py: broken off and gone on with; on two processes; losses that fall."""

import os
import re
import signal
import subprocess
import sys
import time
from unittest.mock import Mock

import pytest
import pytorch_lightning as pl
import torch
from runs import KINDS, OTHERS, arguments, data, last, same, written  # noqa: F401 (data is a fixture)

import main
from data.dataset import ManifestDataset
from ldm import checkpoints
from ldm.training.diffusion import LEVELS


def test_discriminator_starts_late_and_each_side_sees_the_other_as_constant(data, tmp_path):
    adversary = "model.params.discriminator={target: taming.modules.discriminator.model.NLayerDiscriminator, params: "
    more = [
        adversary + "{input_nc: 1, ndf: 8, n_layers: 1}}",
        "model.params.adversarial_start=2",
        "model.params.crops=null",
    ]
    states = {}
    for steps in ("1", "2", "4"):
        assert (
            main.main(arguments(data, tmp_path / steps, "autoencoder", "--max_steps", steps, *more))
            == 0
        )
        states[steps] = last(tmp_path / steps, "autoencoder")["state_dict"]
    key, other = "discriminator.main.0.weight", "first_stage.model.decoder.conv_out.weight"
    assert torch.equal(states["1"][key], states["2"][key]) and not torch.equal(
        states["2"][key], states["4"][key]
    )
    assert not torch.equal(states["1"][other], states["2"][other])
    assert states["4"]["discriminator.main.3.running_mean"].abs().sum() > 0


def test_decoder_only_leaves_the_latents(data, tmp_path):
    for steps in ("1", "3"):
        more = ["model.params.decoder_only=true", "model.params.bottleneck.params.from_data=0"]
        more.append("model.params.bottleneck.params.revive=0")
        assert (
            main.main(arguments(data, tmp_path / steps, "autoencoder", "--max_steps", steps, *more))
            == 0
        )
    a, b = (last(tmp_path / steps, "autoencoder")["state_dict"] for steps in ("1", "3"))
    changed = {
        key.split(".")[2]
        for key in a
        if key.startswith("first_stage.") and not torch.equal(a[key], b[key])
    }
    assert changed == {"decoder", "post_quant_conv"}


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_run_equals_an_unbroken_one_to_the_bit(kind, data, tmp_path):
    """7 steps of 4 an epoch in one go, and 3 + 4: weights, averages, optimiser, schedule, order and noise."""
    constant = (
        "model.params.optimiser.params.floor=1.0"  # else the decay would know of the longer run
    )
    assert main.main(arguments(data, tmp_path / "whole", kind, "--max_steps", "7", constant)) == 0
    assert main.main(arguments(data, tmp_path / "parts", kind, "--max_steps", "3", constant)) == 0
    assert last(tmp_path / "parts", kind)["global_step"] == 3
    assert main.main(arguments(data, tmp_path / "parts", kind, "--max_steps", "7", constant)) == 0
    a, b = last(tmp_path / "whole", kind), last(tmp_path / "parts", kind)
    for key in (
        "state_dict",
        "ema",
        "ema_images",
        "optimizer_states",
        "lr_schedulers",
        "global_step",
    ):
        assert same(a[key], b[key]), key


def test_the_last_checkpoint_holds_what_the_last_validation_found(data, tmp_path):
    """A validation at the very step that is saved; going on from there is still going on to the bit."""
    more = [
        "model.params.optimiser.params.floor=1.0",
        "--limit_val_batches",
        "1",
        "--val_check_interval",
    ]
    assert (
        main.main(arguments(data, tmp_path / "whole", "latent", "--max_steps", "5", *more, "3"))
        == 0
    )
    assert (
        main.main(arguments(data, tmp_path / "parts", "latent", "--max_steps", "3", *more, "3"))
        == 0
    )
    saved = last(tmp_path / "parts", "latent")
    assert (
        saved["global_step"] == 3 and len(saved["config"]["prior"]["params"]["variances"]) == LEVELS
    )
    assert (
        main.main(arguments(data, tmp_path / "parts", "latent", "--max_steps", "5", *more, "3"))
        == 0
    )
    a, b = last(tmp_path / "whole", "latent"), last(tmp_path / "parts", "latent")
    for key in (
        "state_dict",
        "ema",
        "ema_images",
        "optimizer_states",
        "lr_schedulers",
        "global_step",
    ):
        assert same(a[key], b[key]), key


def test_killed_before_the_first_save_a_run_goes_on_from_its_best(data, tmp_path):
    more = [
        "--limit_val_batches",
        "1",
        "--val_check_interval",
        "2",
        "model.params.optimiser.params.floor=1.0",
        "--max_steps",
    ]
    assert main.main(arguments(data, tmp_path / "whole", "pixel", *more, "5")) == 0
    assert main.main(arguments(data, tmp_path / "parts", "pixel", *more, "3")) == 0
    (tmp_path / "parts" / "p" / "pixel" / "checkpoints" / "last.ckpt").unlink()
    assert main.main(arguments(data, tmp_path / "parts", "pixel", *more, "5")) == 0
    a, b = last(tmp_path / "whole", "pixel"), last(tmp_path / "parts", "pixel")
    for key in (
        "state_dict",
        "ema",
        "ema_images",
        "optimizer_states",
        "lr_schedulers",
        "global_step",
    ):
        assert same(a[key], b[key]), key


def test_the_sanity_check_measures_nothing(data, tmp_path):
    """Its few batches neither stand for the autoencoder's error on all, nor an untrained network for a prior."""
    (data / "odd.csv").write_text(
        "path\n" + "".join(f"s{i}.png\n" for i in (0, 1, 2, 4, 5))
    )  # batches of 2, 2 and 1
    more = [
        "prior.params.error_variance=0.0",
        f"data.params.validation={data}/odd.csv",
        "--limit_val_batches",
        "1.0",
    ]
    more += ["--val_check_interval", "3", "--num_sanity_val_steps"]
    for sanity in ("0", "1"):
        assert (
            main.main(
                arguments(data, tmp_path / sanity, "latent", "--max_steps", "3", *more, sanity)
            )
            == 0
        )
    a, b = (last(tmp_path / sanity, "latent")["config"]["prior"]["params"] for sanity in ("0", "1"))
    assert a["error_variance"] == b["error_variance"] > 0
    prior = checkpoints.load(tmp_path / "0" / "p" / "latent")
    image = torch.stack([ManifestDataset(data / "odd.csv")[i]["image"] for i in range(5)])
    with torch.no_grad():
        error = (prior.decode(prior.encode(image)) - image).square().mean()
    assert float(error) == pytest.approx(a["error_variance"], rel=1e-5)
    assert (
        main.main(arguments(data, tmp_path / "young", "latent", "--max_steps", "1", *more, "1"))
        == 0
    )
    young = last(tmp_path / "young", "latent")["config"]["prior"]["params"]
    assert not young["variances"] and not young["image_variances"] and young["error_variance"] == 0


@pytest.mark.parametrize("interval", ["2", "1.0"])
def test_the_last_checkpoint_knows_the_best_one(interval, data, tmp_path):
    """Else a run that goes on from it may put a worse model in the place of the best."""
    more = [
        "--limit_val_batches",
        "1",
        "--val_check_interval",
        interval,
        "save_every=2",
        "--max_steps",
        "4",
    ]
    assert main.main(arguments(data, tmp_path, "pixel", *more)) == 0
    (known,) = (
        state
        for name, state in last(tmp_path, "pixel")["callbacks"].items()
        if name.startswith("ModelCheckpoint")
    )
    losses = written(tmp_path, "pixel", "val/loss")
    assert float(known["current_score"]) == pytest.approx(losses[-1]) and float(
        known["best_model_score"]
    ) == pytest.approx(min(losses))


def test_a_run_that_is_out_of_time_saves_where_it_stops(data, tmp_path, monkeypatch):
    steps = []

    def look(timer, trainer):
        steps.append(trainer.global_step)
        trainer.should_stop = trainer.should_stop or trainer.global_step == 3

    monkeypatch.setattr("pytorch_lightning.callbacks.Timer._check_time_remaining", look)
    assert (
        main.main(
            arguments(data, tmp_path, "pixel", "--max_steps", "9", "--max_time", "00:01:00:00")
        )
        == 0
    )
    assert steps[-1] == last(tmp_path, "pixel")["global_step"] == 3


@pytest.mark.slow
def test_killed_at_a_random_step_and_resumed(data, tmp_path):
    """kill -9 while it trains; going on gives the weights of a run that was left alone."""
    often = ["--max_steps", "40", "save_every=5"]
    assert main.main(arguments(data, tmp_path / "whole", "pixel", *often)) == 0
    command = [sys.executable, "main.py", *arguments(data, tmp_path / "parts", "pixel", *often)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    file = tmp_path / "parts" / "p" / "pixel" / "checkpoints" / "last.ckpt"
    while not file.exists():
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert last(tmp_path / "parts", "pixel")["global_step"] < 40
    assert main.main(arguments(data, tmp_path / "parts", "pixel", *often)) == 0
    a, b = last(tmp_path / "whole", "pixel"), last(tmp_path / "parts", "pixel")
    assert a["global_step"] == b["global_step"] == 40
    assert same(a["state_dict"], b["state_dict"]) and same(a["ema"], b["ema"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes(kind, data, tmp_path):
    """gloo on the CPU; both ranks end with the same weights (rank 0's are what is saved), and the loss is finite."""
    command = [
        sys.executable,
        "main.py",
        *arguments(data, tmp_path, kind, "--max_steps", "3", "--devices", "2", "--strategy", "ddp"),
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    saved = last(tmp_path, kind)
    assert saved["global_step"] == 3
    assert all(
        torch.isfinite(v).all() for v in saved["state_dict"].values() if v.is_floating_point()
    )


def agreement(a: dict, b: dict) -> float:
    """The share of weights that differ by less than a hundredth of a step of Adam with lr 1e-3."""
    return float(
        torch.cat([((a[k] - b[k]).abs() < 1e-5).flatten() for k in a if a[k].is_floating_point()])
        .float()
        .mean()
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pixel", "latent"])
def test_sharded_training_is_the_unsharded_one(kind, data, tmp_path):
    """--strategy fsdp on two processes (gloo): weights and averages of ddp, whole checkpoints, resumed to the bit."""
    more = [
        "--devices",
        "2",
        "--limit_val_batches",
        "1",
        "--val_check_interval",
        "2",
        "model.params.optimiser.params.floor=1.0",
    ]
    for where, steps, strategy in (
        ("ddp", "4", "ddp"),
        ("whole", "4", "fsdp"),
        ("parts", "2", "fsdp"),
        ("parts", "4", "fsdp"),
    ):
        words = arguments(
            data, tmp_path / where, kind, "--max_steps", steps, "--strategy", strategy, *more
        )
        done = subprocess.run(
            [sys.executable, "main.py", *words], capture_output=True, text=True, timeout=550
        )
        assert done.returncode == 0, done.stderr[-2000:]
    assert main.main(arguments(data, tmp_path / "alone", kind, "--max_steps", "4", *more[2:])) == 0
    ddp, whole, parts, alone = (
        last(tmp_path / where, kind) for where in ("ddp", "whole", "parts", "alone")
    )
    for key in ("state_dict", "ema"):
        assert same(whole[key], parts[key]) and whole[key].keys() == ddp[key].keys()
        # Sums are taken in another order; where a gradient is rounding alone, Adam still makes a step of up to lr of it.
        assert agreement(whole[key], ddp[key]) > 0.9 and agreement(alone[key], ddp[key]) < 0.5
    checkpoints.load(tmp_path / "whole" / "p" / kind)


@pytest.mark.parametrize("kind", ["autoencoder", "latent"])
def test_checkpoints_load_by_path(kind, data, tmp_path):
    """What training writes is what `ldm.checkpoints` reads, the averages by default, with the numbers training measured."""
    assert (
        main.main(
            arguments(
                data,
                tmp_path,
                kind,
                "--max_steps",
                "3",
                "--limit_val_batches",
                "1",
                "--val_check_interval",
                "2",
            )
        )
        == 0
    )
    path = tmp_path / "p" / kind / "checkpoints" / "last.ckpt"
    saved = last(tmp_path, kind)
    if kind == "autoencoder":
        loaded = checkpoints.first_stage(path)
        key = "model.decoder.conv_out.weight"
        assert torch.equal(loaded.state_dict()[key], saved["ema"][f"first_stage.{key}"])
        return
    prior = checkpoints.load(path)
    key = "denoiser.network.conv_in.weight"
    assert torch.equal(prior.state_dict()[key], saved["ema"][f"prior.{key}"])
    assert not torch.equal(saved["state_dict"][f"prior.{key}"], saved["ema"][f"prior.{key}"])
    assert prior.scale != 1
    best = path.with_name("best.ckpt")
    assert (
        checkpoints.load(tmp_path / "p" / kind).origin
        == checkpoints.load(best).origin
        != prior.origin
    )  # as for sample.py
    best.unlink()
    assert checkpoints.load(tmp_path / "p" / kind).origin == prior.origin


def test_a_run_is_published(data, tmp_path):
    """As a model folder with a card of what it was trained on and what it does."""
    from scripts import publish_prior

    assert (
        main.main(
            arguments(data, tmp_path, "pixel", "--max_steps", "3", "--log_every_n_steps", "1")
        )
        == 0
    )
    run, new = tmp_path / "p" / "pixel", tmp_path / "new"
    words = [
        "--runs",
        str(run),
        "--train",
        f"{data}/train.csv",
        "--test",
        f"{data}/train.csv",
        "--steps",
        "2",
    ]
    assert (
        publish_prior.main(
            [str(run / "checkpoints" / "last.ckpt"), str(new), *words, "--note", "Three steps."]
        )
        == 0
    )
    card = (new / "README.md").read_text()
    assert (
        "| noisy | " in card and "| new | " in card and "| sigma | 0.05 | " in card
    )  # beside other denoisers
    assert (
        "Three steps." in card and "(8 slices); nobody else" in card and "`pixel`: 3 steps" in card
    )
    assert {path.name for path in new.glob("*.png")} == {"samples.png"}
    assert checkpoints.load(new).contracts == {} and "was black" not in card  # it saw no CT
    assert "pixel: train/loss" in (new / "losses.svg").read_text()


@pytest.mark.parametrize("every, says", [(50, "too few steps"), (2, "`pixel`: 2 steps\n")])
def test_a_run_that_logged_little_is_published_whole_or_not_at_all(
    every, says, data, tmp_path, monkeypatch
):
    from scripts import publish_prior

    few = ("--max_steps", "3", "--log_every_n_steps", str(every))
    assert main.main(arguments(data, tmp_path, "pixel", *few)) == 0
    run, new = tmp_path / "p" / "pixel", tmp_path / "cards" / "new"
    manifest = f"{data}/train.csv"
    words = [str(run / "checkpoints/last.ckpt"), str(new), "--runs", str(run), "--steps", "2"]
    words += ["--train", manifest, "--test", manifest]
    with monkeypatch.context() as patch:
        patch.setattr(publish_prior, "card", Mock(side_effect=OSError(28, "No space left")))
        assert publish_prior.main(words) == 2 and list(new.parent.iterdir()) == []
    assert publish_prior.main(words) == 0 and list(new.parent.iterdir()) == [new]
    text = (new / "README.md").read_text()
    assert says in text and text.startswith("# new\n")
    assert ("losses.svg" in text) == (new / "losses.svg").is_file() == (every == 2)


def test_a_card_tells_the_average_chosen_the_errors_and_the_learning_curve(data, tmp_path):
    """The better average is the published one, whichever it is; Var[x0 | x] is that of the manifest named."""
    from scripts import publish_prior

    more = [
        "--log_every_n_steps",
        "1",
        "save_every=4",
        "ema_half_life=[1000, 0.25]",
        "model.params.optimiser.params.floor=1",
    ]
    for steps in ("4", "8"):
        assert main.main(arguments(data, tmp_path, "pixel", "--max_steps", steps, *more)) == 0
        file = tmp_path / "p" / "pixel" / "checkpoints" / "last.ckpt"
        file.with_name(f"{steps}.ckpt").write_bytes(file.read_bytes())
    run, new, all_ = tmp_path / "p" / "pixel", tmp_path / "new", f"{data}/train.csv"
    words = [
        "--runs",
        str(run),
        "--train",
        all_,
        "--test",
        all_,
        "--validation",
        all_,
        "--spectra",
        all_,
        "--steps",
        "2",
    ]
    words += [
        "--ct",
        "-1000",
        "400",
        "--earlier",
        *(str(file.with_name(f"{steps}.ckpt")) for steps in (8, 4)),
    ]
    assert publish_prior.main([str(file), str(new), *words]) == 0
    card, prior = (new / "README.md").read_text(), checkpoints.load(new)
    values = {k: float(v) for k, v in re.findall(r"(\S+) images (\S+) dB", card)}
    best = max(values, key=values.__getitem__)
    assert prior.contracts == {"CT": (-1000, 400)} and "* CT: -1000 was black and 400 white" in card
    key = "denoiser.network.conv_in.weight"
    chosen = checkpoints.load(file, ema=float(best.replace(",", ""))).state_dict()[key]
    assert len(values) == 2 and torch.allclose(prior.state_dict()[key], chosen, atol=2**-11)
    assert card.index("| 4 | ") < card.index("| 8 | ")
    assert len(prior.variances) == LEVELS and 0 < prior.variance(0.1) < 2 * 0.1**2


def test_losses_fall(data, tmp_path):
    """A few steps on eight pictures: the training loss at the end is below that at the start."""
    for kind in ("autoencoder", "pixel"):
        assert (
            main.main(
                arguments(data, tmp_path, kind, "--max_steps", "30", "--log_every_n_steps", "1")
            )
            == 0
        )
        values = written(tmp_path, kind, "train/l1" if kind == "autoencoder" else "train/loss")
        assert sum(values[-8:]) < 0.7 * sum(values[:8]), kind


def test_sigterm_saves_and_ends_with_143(data, tmp_path, monkeypatch):
    """What a scheduler sends before it takes the machine away; even between the hooks of a batch and the next one."""
    handler = signal.getsignal(signal.SIGTERM)

    def taken_away(self, *_):
        if self.global_step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(
            "ldm.training.diffusion.PixelDiffusion.on_train_batch_end", taken_away
        )  # after all callbacks
        main.main(arguments(data, tmp_path, "pixel", "--max_steps", "9"))
    assert end.value.code == 143 and last(tmp_path, "pixel")["global_step"] == 4
    assert signal.getsignal(signal.SIGTERM) is handler
    assert main.main(arguments(data, tmp_path, "pixel", "--max_steps", "5")) == 0
    assert last(tmp_path, "pixel")["global_step"] == 5


def test_ctrl_c_saves_and_ends_with_130(data, tmp_path, monkeypatch):
    handler = signal.getsignal(signal.SIGINT)

    def interrupted(self, *_):
        if self.global_step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr("ldm.training.diffusion.PixelDiffusion.on_train_batch_end", interrupted)
        main.main(arguments(data, tmp_path, "pixel", "--max_steps", "9"))
    assert end.value.code == 130 and last(tmp_path, "pixel")["global_step"] == 4
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize("kind", ["autoencoder", "pixel"])
def test_the_bar_shows_the_loss_and_nothing_advertises(kind, data, tmp_path, capfd):
    more = ["--max_steps", "2", "--enable_progress_bar", "True"]
    assert main.main(arguments(data, tmp_path, kind, *more)) == 0
    out, err = capfd.readouterr()
    assert "train/loss=" in out + err and "v_num" not in out + err
    assert not re.search(r"Tip|litlogger|GPU available|TPU|UserWarning", out + err)


ACCUMULATED = [
    "--accumulate_grad_batches",
    "4",
    "data.params.batch_size=1",
    "--max_steps",
    "4",
]  # two steps an epoch


def test_sigterm_inside_an_accumulation_waits_for_its_end(data, tmp_path, monkeypatch):
    """No checkpoint holds the gradients gathered so far; going on is then going on to the bit."""
    assert main.main(arguments(data, tmp_path / "whole", "pixel", *ACCUMULATED)) == 0

    def taken_away(self, outputs, batch, index):
        if (self.global_step, index) == (1, 5):
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr("ldm.training.diffusion.PixelDiffusion.on_train_batch_end", taken_away)
        main.main(arguments(data, tmp_path / "parts", "pixel", *ACCUMULATED))
    assert last(tmp_path / "parts", "pixel")["global_step"] == 2
    assert main.main(arguments(data, tmp_path / "parts", "pixel", *ACCUMULATED)) == 0
    a, b = last(tmp_path / "whole", "pixel"), last(tmp_path / "parts", "pixel")
    for key in ("state_dict", "ema", "ema_images", "optimizer_states", "global_step"):
        assert same(a[key], b[key]), key


def test_nothing_is_saved_and_no_run_ends_inside_an_accumulation(data, tmp_path, monkeypatch):
    """Neither by a validation that falls into one (after 6 batches, where 4 make a step), nor when time is up."""
    saved, dump = [], pl.Trainer.save_checkpoint

    def save(trainer, path, *more, **settings):
        saved.append(
            (trainer.fit_loop.epoch_loop.batch_progress.current.ready, os.path.basename(path))
        )
        dump(trainer, path, *more, **settings)

    def look(timer, trainer):
        trainer.should_stop = trainer.should_stop or trainer.fit_loop.total_batch_idx >= 9

    monkeypatch.setattr("pytorch_lightning.Trainer.save_checkpoint", save)
    monkeypatch.setattr("pytorch_lightning.callbacks.Timer._check_time_remaining", look)
    more = [
        "--limit_val_batches",
        "1",
        "--val_check_interval",
        "6",
        "save_every=1",
        "--max_time",
        "00:01:00:00",
    ]
    assert main.main(arguments(data, tmp_path, "pixel", *ACCUMULATED, *more)) == 0
    assert saved[:3] == [(4, "last.ckpt"), (8, "best.ckpt"), (8, "last.ckpt")]
    assert all(ready % 4 == 0 for ready, _ in saved) and last(tmp_path, "pixel")["global_step"] == 3


@pytest.mark.parametrize("kind", OTHERS)
def test_other_kinds_train_validate_and_resume(kind, data, tmp_path):
    """Patch-Diffusion, patches of latents in both manners, KL autoencoders and their latents."""
    more = ["model.params.optimiser.params.floor=1.0", "--limit_val_batches", "1"]
    for where, steps in (("whole", "5"), ("parts", "3"), ("parts", "5")):
        assert main.main(arguments(data, tmp_path / where, kind, "--max_steps", steps, *more)) == 0
    a, b = last(tmp_path / "whole", kind), last(tmp_path / "parts", kind)
    assert (
        a["global_step"] == 5
        and same(a["state_dict"], b["state_dict"])
        and same(a["ema"], b["ema"])
    )
    if kind != "kl":
        prior = checkpoints.load(tmp_path / "whole" / "p" / kind)
        assert prior.to_image(torch.zeros(1, *prior.shape)).shape == (1, 1, 16, 16)


def test_tensorboard_shows_what_one_looks_for(data, tmp_path):
    validated = (
        "--limit_val_batches",
        "1",
        "--val_check_interval",
        "2",
        "--log_every_n_steps",
        "1",
        "--max_steps",
        "4",
    )
    for kind, scalars, images in (
        (
            "autoencoder",
            {"train/loss", "train/l1", "train/codes used", "train/codes dead", "train/perplexity"},
            {"reconstruction"},
        ),
        ("patch", {"train/loss"}, {"samples", "denoising"}),
    ):
        assert main.main(arguments(data, tmp_path, kind, *validated)) == 0
        found = written(tmp_path, kind)
        assert scalars | {"train/loss", "lr-AdamW", "val/loss"} <= set(
            found["scalars"]
        ) and images <= set(found["images"])
        assert (
            kind == "autoencoder"
            or sum("val/loss at sigma" in name for name in found["scalars"]) == LEVELS
        )
    assert written(tmp_path, "patch", "lr-AdamW") == pytest.approx(
        [1e-3 / 3, 2e-3 / 3, 1e-3, 5e-4]
    )  # warm-up 2, cosine to 4


@pytest.mark.parametrize("kind", ["pixel", "patch", "padis on latents"])
def test_class_conditional_training_validates(kind, data, tmp_path):
    """And shows pictures; the prior is told nothing once that is over."""
    where = (
        "prior.params.denoiser.params"
        + (".denoiser.params" if kind == "padis on latents" else "")
        + ".network.params"
    )
    more = [
        "model.params.labels=true",
        f"{where}.classes=2",
        "--limit_val_batches",
        "1.0",
        "--val_check_interval",
        "2",
    ]
    assert main.main(arguments(data, tmp_path, kind, "--max_steps", "2", *more)) == 0
    assert len(last(tmp_path, kind)["config"]["prior"]["params"]["variances"]) == LEVELS
    assert checkpoints.load(tmp_path / "p" / kind).label is None
    assert {"samples", "denoising"} <= set(written(tmp_path, kind)["images"])


@pytest.mark.parametrize("kind", ["autoencoder", "pixel"])
def test_trainer_flags(kind, data, tmp_path):
    """Mixed precision, accumulation, clipping and memory layout: weights stay float32, two batches make a step."""
    flags = [
        "--precision",
        "bf16-mixed",
        "--accumulate_grad_batches",
        "2",
        "--gradient_clip_val",
        "0.5",
        "--channels_last",
    ]
    assert main.main(arguments(data, tmp_path, kind, "--max_steps", "3", *flags)) == 0
    saved = last(tmp_path, kind)
    assert saved["global_step"] == 3 and saved["ema_images"] == 3 * 2 * 2
    assert all(
        v.dtype == torch.float32 for v in saved["state_dict"].values() if v.is_floating_point()
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_compiled_step(kind, data, tmp_path):
    """--compile: names of the weights stay, and two steps end within rounding of those without it."""
    same_masks = (
        ["prior.params.denoiser.params.network.params.dropout=0"] if kind == "pixel" else []
    )  # compiled ones differ
    for where, more in (("plain", []), ("compiled", ["--compile"])):
        assert (
            main.main(
                arguments(data, tmp_path / where, kind, "--max_steps", "2", *same_masks, *more)
            )
            == 0
        )
    a, b = (last(tmp_path / where, kind)["state_dict"] for where in ("plain", "compiled"))
    assert a.keys() == b.keys()
    # With one channel in a group of its norms, this tiny network does not feel its biases and times: their gradients are
    # rounding alone, of which Adam makes steps of any size up to lr. The weights of its convolutions agree.
    felt = [k for k in a if a[k].ndim == 4 and a[k].numel() > 1000]
    assert felt and min(agreement({k: a[k]}, {k: b[k]}) for k in felt) > 0.95
