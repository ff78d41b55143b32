"""Asked to stop by a scheduler (SIGTERM, or Slurm's SIGUSR1) at an awkward moment: saved, 143, gone on with to the bit."""

import os
import shutil
import signal

import pytest
import torch
from runs import arguments, data, last, same  # noqa: F401  data is a fixture

import main
from ldm.trained import checkpoint_of
from ldm.training.diffusion import PixelDiffusion

MORE = (
    "--limit_val_batches",
    "3",
    "--val_check_interval",
    "2",
    "--log_every_n_steps",
    "1",
    "save_every=100",
    "--max_steps",
    "6",
)


def asked_at(step: int, number: signal.Signals, batches: list):
    """A validation_step that, at an optimiser step, has its process asked to stop in the second batch."""
    validate = PixelDiffusion.validation_step

    def hooked(self, batch, index):
        batches.append((self.global_step, index))
        if (self.global_step, index) == (step, 1) and not self.trainer.sanity_checking:
            os.kill(os.getpid(), number)
        return validate(self, batch, index)

    return hooked


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_inside_a_validation_it_does_not_wait_for_its_end(number, data, tmp_path, monkeypatch):  # noqa: F811
    """And the resumed run validates first: weights, averages, error spectra and the best are those of an unbroken run."""
    words, seen, folder = (
        arguments(data, tmp_path, "pixel", *MORE),
        [],
        tmp_path / "p/pixel/checkpoints",
    )
    assert main.main(words) == 0
    shutil.move(folder, tmp_path / "whole")
    shutil.rmtree(folder.parent)
    for step in (2, 6):  # the last validation of all is waited for
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
            patch.setattr(PixelDiffusion, "validation_step", asked_at(step, number, seen))
            main.main(words)
        assert end.value.code == 143 and last(tmp_path, "pixel")["global_step"] == step
        assert seen[-1] == ((2, 1) if step == 2 else (6, 2))
    assert main.main(words) == 0
    for name in ("last.ckpt", "best.ckpt"):
        a, b = (torch.load(path / name, weights_only=True) for path in (tmp_path / "whole", folder))
        assert [
            key for key in a if key != "loops" and not same(a[key], b[key])
        ] == []  # those count validation batches


def test_who_stops_a_run_is_told_what_was_saved(data, tmp_path, monkeypatch, capsys):  # noqa: F811
    train = PixelDiffusion.training_step

    def stopped(self, batch, index):
        if self.global_step == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return train(self, batch, index)

    monkeypatch.setattr(PixelDiffusion, "training_step", stopped)
    with pytest.raises(SystemExit) as end:
        main.main(arguments(data, tmp_path, "pixel", *MORE))
    assert end.value.code == 130 and last(tmp_path, "pixel")["global_step"] == 2
    said = capsys.readouterr().err.splitlines()
    assert "main.py: stopped: saved at step 2; --resume auto goes on" in said


def test_before_the_first_batch_it_ends_at_once_and_starts_anew(
    data,  # noqa: F811
    tmp_path,
    monkeypatch,
    capsys,
):
    words, seen = arguments(data, tmp_path, "pixel", *MORE, "--num_sanity_val_steps", "2"), []
    validate = PixelDiffusion.validation_step

    def asked(self, batch, index):
        seen.append(index)
        os.kill(os.getpid(), signal.SIGTERM)
        return validate(self, batch, index)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(PixelDiffusion, "validation_step", asked)
        main.main(words)
    assert end.value.code == 143 and seen == [0] and not (tmp_path / "p/pixel/checkpoints").exists()
    assert "main.py: stopped: not saved; " in capsys.readouterr().err
    assert main.main(words) == 0 and last(tmp_path, "pixel")["global_step"] == 6


def test_a_scheduler_s_job_goes_on_by_itself_in_a_folder_of_its_name(
    data,  # noqa: F811
    tmp_path,
    monkeypatch,
    capsys,
):
    words = arguments(data, tmp_path, "pixel", "--max_steps", "2")
    for flag in ("--name", "--resume"):
        at = words.index(flag)
        del words[at : at + 2]
    monkeypatch.setenv("PALIMPSEST_JOB", "knee")
    assert main.main(words) == 0
    assert main.main([*words[: words.index("--max_steps")], "--max_steps", "3"]) == 0
    assert last(tmp_path, "knee")["global_step"] == 3
    monkeypatch.delenv("PALIMPSEST_JOB")
    assert (
        main.main([*words, "--name", "knee"]) == 2
        and "holds an earlier run" in capsys.readouterr().err
    )


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(damage, data, tmp_path, capsys):  # noqa: F811
    assert main.main(arguments(data, tmp_path, "pixel", *MORE)) == 0
    folder = tmp_path / "p/pixel"
    path = folder / "checkpoints/last.ckpt"
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    path.write_bytes(
        b"" if damage == "empty" else content[: len(content) // 2] if damage == "cut" else content
    )
    assert checkpoint_of("auto", folder) == folder / "checkpoints/best.ckpt"
    assert "last.ckpt is damaged" in capsys.readouterr().out
    assert main.main(arguments(data, tmp_path, "pixel", *MORE)) == 0
    shutil.copy(path, path.with_name("best.ckpt"))
    path.write_bytes(b"")
    path.with_name("best.ckpt").write_bytes(b"")
    assert checkpoint_of("auto", folder) is None  # nothing is left to go on with
