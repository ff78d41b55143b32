"""Which process of how many this is, by what torchrun, Slurm, PyTorchJob and Run:AI put into the environment."""

import pytest
import pytorch_lightning  # noqa: F401  it takes its rank from the environment when it is imported

import main
import sample
from data.files import Refusal
from solvers.run.topology import adopt, detect

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "a", "RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "GROUP_RANK": "1",
    "MASTER_ADDR": "a", "MASTER_PORT": "1", "TORCHELASTIC_RESTART_COUNT": "2",
}  # fmt: skip
SLURM = {
    "SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "knee", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NTASKS": "4",
    "SLURM_NODEID": "1", "SLURM_NNODES": "2",
}  # fmt: skip
POD = {
    "MASTER_ADDR": "knee-master-0",
    "MASTER_PORT": "23456",
    "RANK": "1",
    "WORLD_SIZE": "3",
    "KUBERNETES_SERVICE_HOST": "k",
}
RUNAI = {
    "JOB_NAME": "knee",
    "JOB_UUID": "0123456789ab",
    "POD_UUID": "other",
    "RUNAI_NUM_OF_GPUS": "1",
}
LINES = {
    "alone": ({}, "topology: 1 process on 1 node"),
    "torchrun": (TORCHRUN, "topology: 8 processes on 2 nodes by torchrun, start 3"),
    "slurm": (SLURM, "topology: 4 processes on 2 nodes by Slurm, job knee-77"),
    "slurm's array": (
        SLURM | {"SLURM_ARRAY_JOB_ID": "70"},
        "topology: 4 processes on 2 nodes by Slurm, job knee-70",
    ),
    "a shell of slurm's": (SLURM | {"SLURM_JOB_NAME": "bash"}, "topology: 1 process on 1 node"),
    "pytorchjob": (POD, "topology: 3 nodes by PyTorchJob"),
    "pytorchjob, two each": (
        POD | {"WORLD_SIZE": "6", "PET_NPROC_PER_NODE": "2"},
        "topology: 3 nodes by PyTorchJob",
    ),
    "run:ai": (RUNAI, "topology: 1 process on 1 node, job knee-01234567"),
    "run:ai's workers": (RUNAI | POD, "topology: 3 nodes by Run:AI, job knee-01234567"),
    "rendered": (RUNAI | {"PALIMPSEST_JOB": "my job"}, "topology: 1 process on 1 node, job my-job"),
    "lightning's own": (
        {"LOCAL_RANK": "1", "NODE_RANK": "0", "MASTER_ADDR": "a", "WORLD_SIZE": "2"},
        "topology: 1 process on 1 node",
    ),
}


@pytest.mark.parametrize("name", LINES)
def test_the_topology_is_one_line(name):
    environment, line = LINES[name]
    assert str(detect(environment)) == line


def test_ranks():
    assert (detect(TORCHRUN).rank, detect(TORCHRUN).node) == (5, 1)
    assert (detect(SLURM).rank, detect(SLURM).node) == (3, 1)
    assert detect(POD).rank == 1 and not detect({}).scheduled
    assert all(detect(one).scheduled for one in (TORCHRUN, SLURM, POD, RUNAI))


def test_a_name_is_the_same_after_a_preemption():
    """What changes with the pod has no part in it."""
    assert (
        detect(RUNAI).job
        == detect(RUNAI | {"POD_UUID": "new", "NODE_NAME": "n7"}).job
        == "knee-01234567"
    )
    assert (
        detect(SLURM).job == detect(SLURM | {"SLURM_RESTART_COUNT": "1", "SLURM_NODEID": "0"}).job
    )


def test_pods_are_nodes_to_lightning():
    environment = dict(POD)
    adopt(detect(environment), environment)
    assert environment["NODE_RANK"] == "1" and not {"RANK", "WORLD_SIZE"} & environment.keys()
    untouched = dict(TORCHRUN)
    adopt(detect(untouched), untouched)
    assert untouched == TORCHRUN


@pytest.mark.parametrize(
    ("environment", "devices", "nodes", "gpus", "says"),
    [
        ({}, 4, 1, 1, "--devices 4: this machine has 1 GPU; at most 1 can be used"),
        ({}, 1, 1, 0, "this machine has 0 GPUs"),
        (
            TORCHRUN,
            4,
            1,
            4,
            "torchrun started 8 processes, --devices 4 and --num-nodes 1 ask for 4",
        ),
        (SLURM, 4, 2, None, "Slurm started 4 processes, --devices 4 and --num-nodes 2 ask for 8"),
        (POD, 2, 2, 2, "PyTorchJob started 3 nodes, --devices 2 and --num-nodes 2 ask for 2"),
    ],
)
def test_a_world_that_does_not_fit_is_one_line(environment, devices, nodes, gpus, says):
    with pytest.raises(Refusal, match=says.replace("(", r"\(")):
        detect(environment).check(devices, nodes, gpus)


def test_a_world_that_fits():
    detect({}).check(4, 1, None)  # processes on the CPU
    detect({}).check("auto", 1, 0)
    detect(TORCHRUN).check(4, 2, 4)
    detect(SLURM).check(2, 2, 2)
    detect(POD).check(8, 3, 8)


@pytest.mark.parametrize(
    "environment",
    [TORCHRUN | {"RANK": "8"}, TORCHRUN | {"RANK": "x"}, SLURM | {"SLURM_PROCID": "4"}],
)
def test_numbers_that_contradict_each_other(environment):
    with pytest.raises(Refusal):
        detect(environment)


def test_both_doors_refuse(monkeypatch, capsys, tmp_path):
    for key, value in TORCHRUN.items():
        monkeypatch.setenv(key, value)
    assert sample.main(["--devices", "2", "--save-dir", str(tmp_path), "--accelerator", "cpu"]) == 2
    base = [
        "--base",
        "configs/pixel-diffusion/demo.yaml",
        "--train",
        "--devices",
        "2",
        "--accelerator",
        "cpu",
    ]
    assert main.main([*base, "--logdir", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.count("torchrun started 8 processes, --devices 2 and --num-nodes 1 ask for 2") == 2
