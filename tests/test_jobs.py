"""Jobs in the form of every cluster: what the schemas and shells say of them, and what their commands do in a sandbox."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import render_job
import sandbox
import tiny
import yaml
from job_file import HOME, load

JOBS = sorted(path.stem for path in HOME.glob("*.yaml"))
SCHEMAS = json.loads((Path(__file__).parent / "schemas/kubernetes.json").read_text())
SHELLS = ["runai", "runai-legacy", "slurm", "docker"]
SIZES = [
    [],
    ["gpus=4"],
    ["gpus=0", "hours=8"],
    ["nodes=3", "gpus=2"],
    ["preemptible=false", "project="],
]


def rendered(capsys, job: str, cluster: str, *changes: str) -> str:
    assert render_job.main([job, "--for", cluster, *changes]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def manifests(capsys, job: str, *changes: str) -> dict[str, dict]:
    return {
        made["kind"]: made
        for made in yaml.safe_load_all(rendered(capsys, job, "kubernetes", *changes))
    }


def validate(made: dict) -> None:
    kind = {**SCHEMAS["kinds"][made["kind"]], "definitions": SCHEMAS["definitions"]}
    jsonschema.Draft7Validator(kind).validate(made)


def possible(job: str, cluster: str, changes: list[str]) -> list[str]:
    """Docker knows one machine, and an evaluation runs on one."""
    alone = cluster == "docker" or job == "evaluate"
    if "project=" in changes:
        changes = changes[:1]
    return [change for change in changes if not (alone and change.startswith("nodes"))]


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("changes", SIZES, ids=str)
def test_manifests_are_what_kubernetes_takes(job, changes, capsys):
    own = [
        "files={note.txt: 'two words'}",
        "volumes=[{mount: /r, claim: r, size: 5Gi}, {mount: /d, host: /s, read_only: true}]",
    ]
    for more in ([], own):
        made = manifests(capsys, job, *possible(job, "kubernetes", changes), *more)
        assert ("ConfigMap" in made) == ("PersistentVolumeClaim" in made) == bool(more)
        for one in made.values():
            validate(one)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["spec", "backofLimit"], 3),
        (["spec", "backoffLimit"], "3"),
        (["spec", "template", "spec", "containers", 0, "arg"], ["a"]),
        (["spec", "template", "spec", "containers", 0, "env"], {"A": "b"}),
        (["spec", "template", "spec", "volumes", 0, "hostpath"], {"path": "/a"}),
    ],
)
def test_the_schemas_find_mistakes(path, value, capsys):
    made = manifests(capsys, "sample")["Job"]
    *way, last = path
    place = made
    for step in way:
        place = place[step]
    place[last] = value
    with pytest.raises(jsonschema.ValidationError):
        validate(made)


def test_a_pytorch_job_is_of_the_operator_s_fields(capsys):
    made = manifests(capsys, "train", "nodes=4", "gpus=2")["PyTorchJob"]
    validate(made)
    replicas = made["spec"]["pytorchReplicaSpecs"]
    assert [replicas[kind]["replicas"] for kind in ("Master", "Worker")] == [1, 3]
    made["spec"]["pytorchReplicaSpecs"]["Master"]["restart"] = "Never"
    with pytest.raises(jsonschema.ValidationError):
        validate(made)


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("cluster", SHELLS)
def test_scripts_are_what_shells_take(job, cluster, capsys, tmp_path):
    for number, changes in enumerate(SIZES):
        text = rendered(capsys, job, cluster, *possible(job, cluster, changes))
        (tmp_path / f"{number}.sh").write_text(text)
        assert max(map(len, text.splitlines())) < 140
    scripts = sorted(map(str, tmp_path.glob("*.sh")))
    for script in scripts:
        subprocess.run(["bash", "-n", script], check=True)
    if Path("/usr/bin/shellcheck").exists():
        done = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["gpu=2"], "gpu: unknown key; did you mean 'gpus'?"),
        (["gpus=two"], "gpus: 'two' is not a whole number from 0"),
        (["name=Knee SR"], "name: 'Knee SR' is not a name of lower-case letters"),
        (["memory=64"], "memory: 64 is not a size like 64G or 500Gi"),
        (["command=[train]"], "command: 'train' is no program"),
        (
            ["volumes=[{mount: data, host: /a}]"],
            "volumes, 1: mount: 'data' is not an absolute path",
        ),
        (["volumes=[{mount: /data}]"], "volumes, 1: needs a mount, and a host folder or a claim"),
        (["volumes=[{mount: /a, host: /a}, {mount: /a, host: /b}]"], "two have the same mount"),
        (["environment={A B: c}"], "environment: a mapping of variables"),
        (["nodes"], "'nodes' is not of the form key=value"),
        (["nodes=2", "command=[scripts/evaluate.py, a, b]"], "runs on one node"),
    ],
)
def test_mistakes_are_one_line(changes, says, capsys):
    assert render_job.main(["sample", "--for", "slurm", *changes]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line


def test_what_a_cluster_has_not_is_one_line(capsys):
    for cluster, change, says in (
        ("docker", "nodes=2", "Docker runs a job on one machine"),
        ("slurm", "volumes=[{mount: /d, claim: c}]", "Slurm knows no claims"),
        ("runai", "files={a: b}", "Run:AI's command line takes none"),
    ):
        assert render_job.main(["sample", "--for", cluster, change]) == 2
        assert says in capsys.readouterr().err
    assert render_job.main(["smaple", "--for", "slurm"]) == 2
    assert "did you mean 'sample'?" in capsys.readouterr().err


def test_the_words_of_both_forms_of_runai(capsys):
    new = shlex.split(rendered(capsys, "train", "runai", "nodes=2").replace("\\\n", ""))
    old = shlex.split(rendered(capsys, "train", "runai-legacy").replace("\\\n", ""))
    assert new[new.index("runai") :][:4] == ["runai", "training", "pytorch", "submit"]
    assert new[new.index("--workers") + 1] == "1" and "--num-nodes" in new
    assert old[old.index("runai") :][:6] == [
        "runai",
        "submit",
        "--name",
        "medical-sr",
        "--image",
        "registry/palimpsest",
    ]
    assert old[old.index("--gpu") :][:6] == ["--gpu", "1", "--cpu", "8", "--memory", "64G"]
    assert old[old.index("--command") :][:4] == ["--command", "--", "python", "main.py"]
    assert "--volume" in old and "/shared/logs:/logs" in old


def test_a_job_is_written_as_a_file(tmp_path, capsys):
    assert render_job.main(["sample", "--for", "docker", "--out", str(tmp_path / "new")]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path == tmp_path / "new/sample-sr.docker.sh" and "docker run" in path.read_text()


# In a sandbox: what the cluster would start is started, under another user id, with the job's mounts and no network.

STAND_IN = """#!{python}
import json, os, subprocess, sys
sys.path.insert(0, {tests!r})
import sandbox
words, mounts, variables = sys.argv[1:], [], json.loads(os.environ.get("GIVEN", "{{}}"))
MOUNTS = {{"--volume": ":", "--bind": ":", "--host-path": "="}}
for flag, value in zip(words, words[1:]):
    if flag in ("--volume", "--bind"):
        here, there, *more = value.split(":")
        mounts.append((here, there, more == ["ro"]))
    elif flag == "--host-path":
        parts = dict(part.partition("=")[::2] for part in value.split(","))
        mounts.append((parts["path"], parts["mount"], "readwrite" not in parts))
    elif flag in ("--env", "--environment", "--environment-variable"):
        key, _, text = value.partition("=")
        variables[key] = text
if "--command" in words:
    inner = words[words.index("--command") + 2:]
elif "python" in words:
    inner = words[words.index("python"):]
else:
    inner = ["python", *words[words.index("image") + 1:]]
sys.exit(subprocess.run(sandbox.command(inner, mounts, variables)).returncode)
"""


def cluster_of(where: Path) -> dict[str, str]:
    """An environment in which runai, docker and srun start what they are told in a sandbox."""
    folder = where / "bin"
    folder.mkdir()
    for name in ("runai", "docker", "srun"):
        (folder / name).write_text(
            STAND_IN.format(python=sys.executable, tests=str(Path(__file__).parent))
        )
        (folder / name).chmod(0o755)
    (folder / "scontrol").write_text(f'#!/bin/sh\necho "$@" > {where}/requeued\n')
    (folder / "scontrol").chmod(0o755)
    return {
        "PATH": f"{folder}:{Path(sys.executable).parent}:/usr/bin:/bin",
        "SLURM_JOB_ID": "7",
        "TMPDIR": str(where),
    }


def small(where: Path, door: str = "sample.py") -> Path:
    """A job that restores three tiny scans by a classical method, and its folders."""
    world = tiny.world(where / "world")
    for path in (where / "world").rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    (where / "results").mkdir()
    (where / "results").chmod(0o777)
    for path in (where, *where.parents[:3]):
        os.chmod(path, 0o755)
    words = [
        "--task",
        "/data/sr.yaml",
        "--solver",
        "baseline",
        "--model",
        "/data/pixel",
        "--data-root",
        "/data/scans",
    ]
    job = {
        "name": "tiny",
        "image": "image",
        "command": [door, *words, "--save-dir", "/results/tiny", "--accelerator", "cpu"],
        "gpus": 0,
        "volumes": [
            {"mount": "/data", "host": str(world), "read_only": True},
            {"mount": "/results", "host": str(where / "results")},
        ],
    }
    (where / "job.yaml").write_text(yaml.safe_dump(job))
    return where / "job.yaml"


def in_pod(made: dict) -> list[str]:
    """What a kubelet would start, in a sandbox."""
    spec = made["spec"]["template"]["spec"]
    container = spec["containers"][0]
    places = {
        volume["name"]: volume["hostPath"]["path"]
        for volume in spec["volumes"]
        if "hostPath" in volume
    }
    mounts = [
        (places[m["name"]], m["mountPath"], m["readOnly"])
        for m in container["volumeMounts"]
        if m["name"] in places
    ]
    return sandbox.command(
        ["python", *container["args"]],
        mounts,
        {one["name"]: one["value"] for one in container["env"]},
    )


def finished(where: Path) -> None:
    assert (
        len(tiny.records(where / "results/tiny")) == 3
        and len(tiny.restored(where / "results/tiny")) == 3
    )
    assert (where / "results/tiny/report.html").is_file()


@sandbox.needs
def test_a_rendered_pod_runs(tmp_path, capsys):
    """Another user id, a read-only file system but for the mounts, no network."""
    made = manifests(capsys, str(small(tmp_path)))["Job"]
    done = subprocess.run(in_pod(made), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    finished(tmp_path)


@pytest.mark.slow
@sandbox.needs
@pytest.mark.parametrize("cluster", SHELLS)
def test_a_rendered_script_runs(cluster, tmp_path, capsys):
    """With stand-ins for docker, runai and srun that start the command in a sandbox."""
    (tmp_path / "job.sh").write_text(rendered(capsys, str(small(tmp_path)), cluster))
    environment = cluster_of(tmp_path)
    done = subprocess.run(
        ["bash", tmp_path / "job.sh"], capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    finished(tmp_path)


def test_a_preempted_slurm_job_is_queued_again(tmp_path, capsys):
    """srun ends with what the program says: 143 after it has saved. Others are not."""
    text = rendered(capsys, "train", "slurm", "volumes=[]")
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7"}
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/requeued\n')
    for code, again in ((0, False), (2, False), (143, True)):
        (tmp_path / "srun").write_text(f"#!/bin/sh\nexit {code}\n")
        for name in ("srun", "scontrol"):
            (tmp_path / name).chmod(0o755)
        assert subprocess.run(["bash", "-c", text], env=environment).returncode == code
        assert (tmp_path / "requeued").exists() == again
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"


def test_every_job_names_a_configuration_that_is_here():
    for job in map(load, JOBS):
        assert (Path(__file__).parents[1] / job.program).is_file()
        assert all(Path(word).is_file() for word in job.command if word.startswith("configs/"))
