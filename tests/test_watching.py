"""What a training run tells: JSON lines, Prometheus, throughput in TensorBoard, and loggers by configuration."""

import json
from pathlib import Path

import pytest
import status
from runs import arguments, data, written  # noqa: F401  data is a fixture

import main
from ldm import config as configuration

SHORT = ("--max_steps", "2", "--log_every_n_steps", "1")


def with_loggers(where: Path, *loggers: dict) -> str:
    """A --base file that names them."""
    path = where / "loggers.yaml"
    path.write_text(configuration.dump({"loggers": list(loggers)}))
    return str(path)


def logger(target: str, **params) -> dict:
    return {"target": f"pytorch_lightning.loggers.{target}", "params": params}


def with_base(words: list[str], path: str) -> list[str]:
    return [*words[:3], path, *words[3:]]


def test_a_run_tells_what_it_does(data, tmp_path, capsys):  # noqa: F811
    words = arguments(data, tmp_path, "pixel", *SHORT, "--log", "json", "--limit_val_batches", "1")
    words = with_base(
        words,
        with_loggers(
            tmp_path, logger("CSVLogger", save_dir=str(tmp_path / "csv"), name="a", version="b")
        ),
    )
    assert main.main(words) == 0
    lines = [
        json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")
    ]
    assert [line["event"] for line in lines if line["event"] != "validation"] == [
        "start",
        "step",
        "step",
        "end",
    ]
    assert all({"time", "rank", "seconds"} <= line.keys() for line in lines)
    assert lines[1]["step"] == 1 and lines[1]["loss"] > 0 and lines[1]["images_per_second"] > 0
    assert len(written(tmp_path, "pixel", "train/images per second")) == 2
    assert "train/loss" in (tmp_path / "csv/a/b/metrics.csv").read_text()
    prometheus = (tmp_path / "p/pixel/metrics.prom").read_text()
    assert 'palimpsest_step{rank="0"' in prometheus and "palimpsest_loss" in prometheus
    found = status.status(tmp_path / "p/pixel")
    assert (found["kind"], found["step"], found["steps"]) == ("training", 2, 2) and found[
        "checkpoint"
    ].endswith(".ckpt")
    assert found["processes"][0]["ended"] == "finished" and found["processes"][0]["step"] == 2


def test_what_is_no_logger_is_one_line(data, tmp_path, capsys):  # noqa: F811
    for wrong, says in (
        ({"target": "torch.nn.Identity", "params": {}}, "is no logger"),
        (logger("CSVLoger", save_dir="a"), "CSVLoger"),
        (logger("CSVLogger", save_dri="a"), "save_dri"),
    ):
        assert (
            main.main(
                with_base(arguments(data, tmp_path, "pixel", *SHORT), with_loggers(tmp_path, wrong))
            )
            == 2
        )
        assert says in capsys.readouterr().err


OFFLINE = {
    "wandb": lambda where: logger("WandbLogger", save_dir=str(where), project="knee", offline=True),
    "mlflow": lambda where: logger(
        "MLFlowLogger", experiment_name="knee", tracking_uri=f"file:{where}/ml"
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("package", OFFLINE)
def test_others_loggers_work_by_configuration(package, data, tmp_path, monkeypatch):  # noqa: F811
    """Without a network, in the way that docs/jobs.md shows."""
    pytest.importorskip(package)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    words = with_base(
        arguments(data, tmp_path, "pixel", *SHORT),
        with_loggers(tmp_path, OFFLINE[package](tmp_path)),
    )
    assert main.main(words) == 0
    kept = {"wandb": "wandb/offline-run-*/*.wandb", "mlflow": "ml/*/*/metrics/train/loss"}[package]
    assert list(tmp_path.glob(kept))
