# ruff: noqa: F811 (a fixture is imported)
"""The training door: its arguments, and one clear line for every mistake."""

import errno
import os

import pytest
import torch
from runs import KINDS, arguments, data, last, written  # noqa: F401 (data is a fixture)

import main
from data.files import locked
from ldm import config as configuration

DEMO = "configs/pixel-diffusion/small-64.yaml"


def refusal(capsys, *argv: str) -> str:
    """The one line of a refused command."""
    assert main.main(argv) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(
        [line for line in lines if line.startswith("main.py: ")]
    ) == 1 and "Traceback" not in "".join(lines)
    return lines[-1]


def test_prints_the_merged_configuration_without_train(capsys):
    assert (
        main.main(
            [
                "--base",
                DEMO,
                "--max-steps",
                "7",
                "--precision=32",
                "model.params.optimiser.params.lr=0.25",
            ]
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert "max_steps: 7" in printed and "lr: 0.25" in printed and "precision: 32" in printed


def test_dashes_and_underscores_are_the_same():
    for spelt in ("--limit-val-batches", "--limit_val_batches"):
        options, _ = main.parse(["--base", DEMO, spelt, "0.1", "--print-config", "--train", "True"])
        assert options.limit_val_batches == 0.1 and options.print_config and options.train is True
    assert main.parse(["--base", DEMO, "--train", "false"])[0].train is False
    assert main.parse(["--base", DEMO, "a.b=1"])[1] == ["a.b=1"]


@pytest.mark.parametrize(
    "argv, says",
    [
        (["--base", DEMO, "--trian"], "did you mean '--train'"),
        (["--base", DEMO, "--max_step", "3"], "did you mean '--max-steps'"),
        (["--train"], "--base"),
        (["--base", "nowhere.yaml"], "nowhere.yaml: no such configuration file"),
        (["--base", DEMO, "model.params.wieghting=edm"], "did you mean 'weighting'"),
        (["--base", DEMO, "--train", "perhaps"], "neither True nor False"),
        (["--base", "configs/projects/medical_super_resolution.yaml"], "training needs `model:`"),
        (
            [
                "--base",
                DEMO,
                "--train",
                "--max_steps",
                "many",
                "data.params.train=README.md",
                "data.params.validation=null",
            ],
            "trainer.max_steps: 'many' is not of type int",
        ),
        (["--base", DEMO, "--train", "--resume", "nowhere"], "no such checkpoint"),
        (
            ["--base", DEMO, "--train", "--resume", "epoch=3.ckpt"],
            "epoch=3.ckpt: no such checkpoint",
        ),
        (
            ["--base", DEMO, "--plugin", "no_such_module"],
            "--plugin no_such_module: No module named",
        ),
        (["--base", DEMO, "modle.params.flip=true"], "modle: unknown key; did you mean 'model'?"),
        (["--base", DEMO, "prior=3"], "prior: 3 is not a mapping"),
        (["--base", DEMO, "save_every=0"], "save_every: 0 is not a whole number above 0"),
        (["--base", DEMO, "save_every=2.5"], "save_every: 2.5 is not a whole number above 0"),
        (["--base", DEMO, "--seed", "-1"], "--seed: -1 is no seed; 0 to 4294967295 are allowed"),
        (["--base", DEMO, "--seed", "99999999999999"], "--seed: 99999999999999 is no seed"),
        (["--base", DEMO, "data.params.seed=-1"], "data.params.seed: -1 is no seed"),
        (["--base", DEMO, "model.params.seed=-1"], "model.params.seed: -1 is no seed"),
        (["--base", DEMO, "data.params.crop=-3"], "crop -3 must be at least 1"),
        (["--base", DEMO, "data.params.crop=0"], "crop 0 must be at least 1"),
        (["--base", DEMO, "data.params.size=0"], "size 0 must be at least 1"),
        (["--base", DEMO, "data.params.zoom=-2"], "zoom -2 must be at least 1"),
        (["--base", DEMO, "data.params.window=foo"], "window 'foo'"),
        (
            ["--base", DEMO, "model.params.crops={0:32}"],
            "model.params.crops.0:32: the colon needs a space after it",
        ),
        (["--base", DEMO, "first_stage_weights=3"], "first_stage_weights: 3 is not a path"),
        (
            ["--base", DEMO, "data.target=ldm.schedule.Table", "data.params.kind=linear"],
            "data: is no LightningDataModule",
        ),
        (
            ["--base", DEMO, "--train", "data.params.train=nowhere.csv"],
            "nowhere.csv: no such manifest",
        ),
        (["--base", DEMO, "--devices", "[0"], "--devices: '[0' is not valid YAML"),
        (["--base", DEMO, "--train", "["], "'[' is not valid YAML"),
        (
            ["--base", DEMO, "--accumulate_grad_batches", "0"],
            "trainer.accumulate_grad_batches: 0 must be above 0",
        ),
        (
            ["--base", DEMO, "--accumulate_grad_batches", "x"],
            "trainer.accumulate_grad_batches: 'x' is not of type int",
        ),
        (["--base", DEMO, "--max_epochs", "1.5"], "trainer.max_epochs: 1.5 is not"),
        (["--base", DEMO, "--log_every_n_steps", "x"], "trainer.log_every_n_steps: 'x' is not"),
        (
            ["--base", DEMO, "--val_check_interval", "0"],
            "trainer.val_check_interval: 0 must be above 0",
        ),
        (["--base", DEMO, "--max_steps"], "trainer.max_steps: True is not of type int"),
        (["--base", DEMO, "--overfit_batches", "2"], "name a manifest of a few rows"),
        (["--base", DEMO, "trainer.overfit_batches=2"], "trainer.overfit_batches"),
        (["--base", DEMO, "trainer.max_stepss=2"], "did you mean 'max_steps'"),
    ],
)
def test_mistakes_are_one_line(argv, says, capsys, tmp_path):
    assert says in refusal(capsys, *argv, "--logdir", str(tmp_path))


def test_a_folder_that_cannot_be_written_is_one_line(data, tmp_path, capsys):
    assert "/proc/nothing" in refusal(
        capsys, *arguments(data, tmp_path, "pixel", "--logdir", "/proc/nothing")
    )


def test_no_images(data, tmp_path, capsys):
    (tmp_path / "empty.csv").write_text("path\n")
    assert "no rows" in refusal(
        capsys, *arguments(data, tmp_path, "pixel", f"data.params.train={tmp_path}/empty.csv")
    )


def test_one_image_trains(data, tmp_path):
    (data / "one.csv").write_text("path\ns0.png\n")
    assert (
        main.main(
            arguments(
                data, tmp_path, "patch", "--max_steps", "2", f"data.params.train={data}/one.csv"
            )
        )
        == 0
    )
    assert last(tmp_path, "patch")["global_step"] == 2


@pytest.mark.parametrize("kind", ["pixel", "patch", "latent"])
def test_images_of_another_size(kind, data, tmp_path, capsys):
    line = refusal(
        capsys, *arguments(data, tmp_path, kind, "--max_steps", "1", "data.params.size=8")
    )
    assert "images of [1, 8, 8] do not fit this prior, made for [1, 16, 16]" in line


def test_images_smaller_than_the_crops(data, tmp_path, capsys):
    line = refusal(
        capsys,
        *arguments(data, tmp_path, "autoencoder", "--max_steps", "1", "model.params.crops={0: 32}"),
    )
    assert "crops of 32 pixels do not fit into images of 16x16" in line


def test_crops_of_another_patch_size(data, tmp_path, capsys):
    assert "largest size must be the prior's 12" in refusal(
        capsys, *arguments(data, tmp_path, "patch", "prior.params.patch=12")
    )


def test_labels_are_needed_for_classes(data, tmp_path, capsys):
    (data / "unlabelled.csv").write_text("path\ns0.png\ns1.png\n")
    more = [
        "model.params.labels=true",
        "prior.params.denoiser.params.network.params.classes=2",
        "--max_steps",
        "2",
    ]
    assert main.main(arguments(data, tmp_path / "labelled", "pixel", *more)) == 0
    line = refusal(
        capsys,
        *arguments(data, tmp_path, "pixel", *more, f"data.params.train={data}/unlabelled.csv"),
    )
    assert "needs a label from 0 to 1" in line
    (data / "third.csv").write_text("path,label\ns0.png,0\ns1.png,2\n")
    assert "from 0 to 1" in refusal(
        capsys, *arguments(data, tmp_path, "pixel", *more, f"data.params.train={data}/third.csv")
    )
    assert "unconditional" in refusal(
        capsys, *arguments(data, tmp_path, "pixel", "model.params.labels=true")
    )


def test_a_time_of_days_stays_text():
    assert main.parse(["--base", DEMO, "--max_time", "10:00:00:00"])[0].max_time == "10:00:00:00"


COLOUR = "channels of the images, the states and the networks do not fit each other (Given groups=1"


@pytest.mark.parametrize(
    "kind, changes, says",
    [
        (
            "pixel",
            ["model.target=ldm.training.latent_diffusion.LatentDiffusion"],
            "LatentDiffusion trains a latent prior",
        ),
        (
            "latent",
            ["model.target=ldm.training.diffusion.PixelDiffusion"],
            "PixelDiffusion trains a pixel prior",
        ),
        (
            "autoencoder",
            ["model.params.bottleneck.target=ldm.training.bottleneck.Gaussian"],
            "a Gaussian needs a KL model",
        ),
        (
            "kl",
            [
                "model.params.bottleneck={target: ldm.training.bottleneck.Codebook, params: {codes: 16}}"
            ],
            "a Codebook needs a VQ model",
        ),
        (
            "autoencoder",
            ["model.params.bottleneck.params.codes=8"],
            "codes must be the model's 16, not 8",
        ),
        ("autoencoder", ["model.params.crops={0: 0}"], "size from 1 on"),
        ("autoencoder", ["model.params.crops={0: a}"], "is not of type"),
        ("autoencoder", ["data.params.channels=3"], COLOUR),
        ("pixel", ["prior.params.denoiser.params.network.params.channels=3"], COLOUR),
        ("latent", ["prior.params.image_channels=3", "data.params.channels=3"], COLOUR),
        ("latent", ["--precision", "bf16-true"], "bf16-mixed"),
        ("latent", ["--precision", "16-true"], "bf16-mixed"),
    ],
)
def test_parts_that_do_not_fit_each_other(kind, changes, says, data, tmp_path, capsys):
    target = "ldm.training.optimisation.AdamW"  # a new target forgets the old one
    optimiser = f"model.params.optimiser={{target: {target}, params: {{lr: 1.0e-3}}}}"
    more = [optimiser] if "model.target" in changes[0] else []
    assert says in refusal(
        capsys, *arguments(data, tmp_path, kind, "--max_steps", "1", *changes, *more)
    )


@pytest.mark.parametrize("varied", ["data.params.augment=true", "data.params.crop=8"])
def test_cached_latents_refuse_what_varies(varied, data, tmp_path, capsys):
    line = refusal(
        capsys,
        *arguments(
            data, tmp_path, "latent", varied, "prior.params.shape=[3,4,4]", "--max_steps", "1"
        ),
    )
    assert f"cached latents cannot follow {varied.split('=')[0]}" in line


def test_what_a_checkpoint_is_not_resumed_with(data, tmp_path, capsys):
    run = arguments(data, tmp_path, "patch", "--max_steps", "1")
    assert main.main(run) == 0
    line = refusal(capsys, *run, "prior.params.pad=12")
    assert "trained with prior.params.pad = None, the configuration says 12" in line
    assert "params.lr = 0.001" in refusal(capsys, *run, "model.params.optimiser.params.lr=0.5")
    manifest = data / "train.csv"
    text = manifest.read_text()
    manifest.write_text(text + "s0.png,1\n")
    try:
        assert "manifest has changed" in refusal(capsys, *run)
    finally:
        manifest.write_text(text)
    without = [word for word in run if word not in ("--resume", "auto")]
    assert "holds an earlier run" in refusal(capsys, *without)


def test_no_run_is_overwritten_by_the_resumption_of_another(data, tmp_path, capsys):
    other = [
        word
        for word in arguments(data, tmp_path, "pixel", "--max_steps", "3")
        if word not in ("--resume", "auto")
    ]
    for name in ("a", "b"):
        assert main.main([*other, "--name", name, "--max_steps", "2"]) == 0
    assert "b: holds an earlier run" in refusal(
        capsys, *other, "--name", "b", "--resume", str(tmp_path / "p" / "a")
    )
    for name, source in (("b", "b"), ("c", "a")):  # itself; and into a new folder
        assert main.main([*other, "--name", name, "--resume", str(tmp_path / "p" / source)]) == 0


def test_the_seed_is_of_noise_and_order_too(data, tmp_path, capsys):
    """From the same weights; seeds of the configuration go first, and a run is gone on with by its own."""
    assert main.main(arguments(data, tmp_path, "patch", "--max_steps", "1")) == 0
    start = [
        "--max_steps",
        "3",
        "--log_every_n_steps",
        "1",
        "--init",
        str(tmp_path / "p" / "patch" / "checkpoints" / "last.ckpt"),
    ]
    losses = {}
    for name, more in {
        "0": [],
        "7": ["--seed", "7"],
        "named": ["--seed", "7", *(f"{s}.params.seed=0" for s in ("model", "data"))],
    }.items():
        assert main.main(arguments(data, tmp_path / name, "patch", *start, *more)) == 0
        losses[name] = written(tmp_path / name, "patch", "train/loss")
    assert losses["0"] == losses["named"] and all(a != b for a, b in zip(losses["0"], losses["7"]))
    config = configuration.load([tmp_path / "7" / "p" / "patch" / "config.yaml"])
    assert config["model"]["params"]["seed"] == config["data"]["params"]["seed"] == 7
    line = refusal(capsys, *arguments(data, tmp_path / "7", "patch", "--max_steps", "4"))
    assert "trained with data.params.seed = 7, the configuration says 0" in line


def test_two_runs_in_one_folder(data, tmp_path, capsys):
    folder = tmp_path / "p" / "pixel"
    with locked(folder, ""):
        assert "another run is writing here" in refusal(capsys, *arguments(data, tmp_path, "pixel"))


def test_a_loss_that_is_not_finite_stops_before_a_checkpoint(data, tmp_path, capsys):
    more = ["--max_steps", "9", "model.params.optimiser.params.lr=1.0e30", "save_every=1"]
    line = refusal(capsys, *arguments(data, tmp_path, "pixel", *more))
    assert "loss is nan" in line or "loss is inf" in line
    assert all(torch.isfinite(v).all() for v in last(tmp_path, "pixel")["state_dict"].values())


def test_full_disk_at_save_keeps_the_checkpoint(data, tmp_path, capsys, monkeypatch):
    assert main.main(arguments(data, tmp_path, "pixel", "--max_steps", "1")) == 0
    before = last(tmp_path, "pixel")

    sync = os.fsync

    def full(descriptor: int) -> None:
        if ".ckpt" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr("data.files.os.fsync", full)
    line = refusal(capsys, *arguments(data, tmp_path, "pixel", "--max_steps", "2"))
    assert (
        "last.ckpt: the disk is full, " in line
        and "No space left on device" in line
        and "previous checkpoint is intact" in line
    )
    assert last(tmp_path, "pixel")["global_step"] == before["global_step"] == 1
    assert not list((tmp_path / "p" / "pixel" / "checkpoints").glob(".*"))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4503599627370496 bytes."
        ),
        MemoryError("Unable to allocate 4.00 PiB"),
    ],
    ids=["gpu", "cpu", "numpy"],
)
def test_out_of_memory_says_what_to_lower(error, data, tmp_path, capsys, monkeypatch):
    def exhausted(*_):
        raise error

    monkeypatch.setattr("ldm.training.diffusion.PixelDiffusion.loss", exhausted)
    assert "lower data.params.batch_size" in refusal(capsys, *arguments(data, tmp_path, "pixel"))
    monkeypatch.setattr(
        "ldm.training.diffusion.PixelDiffusion.loss", lambda *_: torch.zeros(2).view(3)
    )
    with pytest.raises(
        RuntimeError, match="invalid for input of size"
    ):  # a defect is not a lack of memory
        main.main(arguments(data, tmp_path / "defect", "pixel"))


def test_a_bad_image_in_a_loaders_worker_is_one_line(data, tmp_path, capsys, monkeypatch):
    """Its error comes with the worker's traceback; the reason is the last line of it."""
    monkeypatch.setattr("data.datamodule.MEMORY", 0)  # read by the workers, not beforehand
    (tmp_path / "scan.png").write_bytes(b"no picture")
    (tmp_path / "train.csv").write_text(f"path\n{data}/s0.png\nscan.png\n")
    more = [
        f"data.params.train={tmp_path}/train.csv",
        "data.params.num_workers=1",
        "--max_steps",
        "2",
    ]
    line = refusal(capsys, *arguments(data, tmp_path, "pixel", *more))
    assert "scan.png" in line and "Caught" not in line and "Traceback" not in line


def test_init_starts_from_a_checkpoint_and_adapts_channels(data, tmp_path, capsys, monkeypatch):
    colour = ["data.params.channels=3", "prior.params.shape=[3,16,16]"]
    colour += [f"prior.params.denoiser.params.network.params.{k}=3" for k in ("channels", "out")]
    assert (
        main.main(arguments(data, tmp_path / "colour", "pixel", "--max_steps", "2", *colour)) == 0
    )
    (tmp_path / "colour" / "p" / "pixel" / "checkpoints" / "last.ckpt").rename(
        tmp_path / "epoch=3.ckpt"
    )
    monkeypatch.chdir(tmp_path)  # where this word is a file and no override
    assert (
        main.main(
            arguments(
                data, tmp_path / "gray", "pixel", "--max_steps", "1", "--init", "epoch=3.ckpt"
            )
        )
        == 0
    )
    assert (
        "adapted from 3 image channels to 1: denoiser.network.conv_in.weight"
        in capsys.readouterr().out
    )
    assert "none" not in KINDS


def test_writes_what_the_page_promises(data, tmp_path):
    assert (
        main.main(
            arguments(
                data,
                tmp_path,
                "pixel",
                "--max_steps",
                "2",
                "--val_check_interval",
                "2",
                "--limit_val_batches",
                "1",
            )
        )
        == 0
    )
    folder = tmp_path / "p" / "pixel"
    assert (folder / "config.yaml").is_file() and list((folder / "tensorboard").glob("events*"))
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    saved = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert (
        saved["config"]["prior"]["target"] == "ldm.denoiser.Prior"
        and saved["ema"]
        and saved["manifests"]
    )
