"""Every job of configs/jobs, rendered for every cluster, does its work in a sandbox: with a tiny prior and few steps."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import render_job
import sandbox
import tiny
import torch
import yaml
from job_file import HOME
from runs import KINDS
from test_jobs import SHELLS, cluster_of, in_pod

from ldm import config as configuration

PORT = "29611"


def opened(where: Path) -> None:
    """Of anybody's, as a cluster's volumes are."""
    for path in (where, *where.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o644)
    for path in where.parents[:3]:
        path.chmod(0o755)


@pytest.fixture
def volumes(tmp_path) -> Path:
    """Scans, a prior and the configuration of a small training in one volume, and empty ones for what is made."""
    world = tiny.world(tmp_path / "world")
    data = tmp_path / "volumes/data"
    shutil.copytree(world / "scans", data / "test")
    shutil.copytree(world / "pixel", data / "pixel")
    names = sorted(path.name for path in (data / "test").iterdir())
    (data / "train.csv").write_text("path\n" + "".join(f"test/{name}\n" for name in names))
    (data / "tiny.yaml").write_text(configuration.dump(KINDS["pixel"]))
    for name in ("results", "logs"):
        (tmp_path / "volumes" / name).mkdir()
    opened(tmp_path / "volumes")
    return tmp_path / "volumes"


TRAINED = [
    "data.target=data.datamodule.ManifestData", "data.params.train=/data/train.csv", "data.params.batch_size=1",
    "data.params.validation=/data/train.csv", "--limit_val_batches", "1", "--enable_progress_bar", "false",
    "--num_sanity_val_steps", "0", "--accelerator", "cpu", "--max_steps",
]  # fmt: skip


def job(name: str, volumes: Path, *words: str) -> str:
    """The file of a job as it is shipped, but for its image, its volumes' places, no GPU, and words that make it small."""
    content = yaml.safe_load((HOME / f"{name}.yaml").read_text())
    command = content["command"]
    if name == "train":
        rest = command[command.index("--train") :]
        command = ["main.py", "--base", "/data/tiny.yaml", *rest, *TRAINED]
    made = [{"mount": "/data", "host": str(volumes / "data"), "read_only": True}]
    made += [{"mount": f"/{place}", "host": str(volumes / place)} for place in ("results", "logs")]
    content |= {"command": [*command, *words], "volumes": made, "gpus": 0, "image": "image"}
    path = volumes.parent / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def rendered(capsys, path: str, cluster: str, *changes: str) -> str:
    assert render_job.main([path, "--for", cluster, *changes]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def started(path: str, cluster: str, where: Path, capsys) -> None:
    """What the cluster would start has been, and ended well."""
    text, environment = rendered(capsys, path, cluster), None
    if cluster == "kubernetes":
        made = {one["kind"]: one for one in yaml.safe_load_all(text)}
        command = in_pod(made["Job"])
    else:
        shutil.rmtree(where / "bin", ignore_errors=True)
        environment, command = cluster_of(where), ["bash", "-c", text]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]


def last(volumes: Path) -> dict:
    (path,) = (volumes / "logs").glob("*/*/checkpoints/last.ckpt")
    assert path.parts[-3] == "medical-sr"
    return torch.load(path, weights_only=True)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@sandbox.needs
@pytest.mark.parametrize("cluster", ["kubernetes", *SHELLS])
def test_the_shipped_jobs_do_their_work(cluster, volumes, tmp_path, capsys):
    """Training and going on with it, restoring, and comparing what was restored: one after the other, as a user would."""
    for steps in ("2", "3"):
        started(job("train", volumes, steps), cluster, tmp_path, capsys)
        assert last(volumes)["global_step"] == int(steps)
    small = ["--solver", "baseline", "--model", "/data/pixel", "--accelerator", "cpu"]
    started(job("sample", volumes, *small), cluster, tmp_path, capsys)
    assert len(tiny.records(volumes / "results/sample-sr/test")) == 3
    started(job("evaluate", volumes), cluster, tmp_path, capsys)
    found = json.loads((volumes / "results/evaluate-sr.json").read_text())
    assert found


@pytest.mark.slow
@pytest.mark.timeout(900)
@sandbox.needs
def test_the_two_pods_of_a_pytorch_job_train_together(volumes, capsys):
    """Both in one sandbox, whose network they share, with the variables that the operator gives them; and start again."""
    for steps in ("2", "4"):
        path = job("train", volumes, steps)
        text = rendered(capsys, path, "kubernetes", "nodes=2")
        made = {one["kind"]: one for one in yaml.safe_load_all(text)}["PyTorchJob"]
        replicas = made["spec"]["pytorchReplicaSpecs"]
        pods = [in_pod({"spec": replicas[kind]}) for kind in ("Master", "Worker")]
        assert pods[0] == pods[1] and [replicas[k]["replicas"] for k in replicas] == [1, 1]
        words = pods[0][pods[0].index("--remount-ro") + 2 :]
        given = f"MASTER_ADDR=127.0.0.1 MASTER_PORT={PORT} WORLD_SIZE=2"
        both = f'{given} RANK=0 "$@" & first=$!; {given} RANK=1 "$@"; second=$?; wait $first && exit $second'
        boxed = [*pods[0][: -len(words)], "bash", "-c", both, "bash", *words]
        done = subprocess.run(boxed, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stderr[-2000:]
        assert "2 nodes by PyTorchJob" in done.stdout, done.stdout
        saved = last(volumes)
        assert saved["global_step"] == int(steps) and saved["ema_images"] == 2 * int(steps)
