"""A volume on several processes: the first restores, all denoise; the same bytes as alone, killed, gone on with by others."""

import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import tiny
import torch
import torch.multiprocessing as mp
from torch import nn
from torch.distributed import destroy_process_group, init_process_group

from data.files import Refusal
from ldm.denoiser import EDM, Prior
from ldm.volume import VolumePrior
from solvers.run import interrupted, parallel
from tests.test_volume_door import PRIOR, head, run


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    place = tiny.world(tmp_path_factory.mktemp("world"))
    tiny.folder(place / "anysize", PRIOR)
    tiny.task(place / "thick.yaml", "volume.ThroughPlane", factor=2.5)
    tiny.solver(place / "pnp.yaml", "pnp.PnP", steps=4)
    tiny.solver(place / "trace.yaml", "daps.DAPS", steps=2, sigma_max=1.0, covariance="trace")
    return place


@pytest.mark.parametrize("count, batch, size", [(40, 8, 2), (41, 8, 3), (5, 8, 2), (7, 1, 4)])
def test_shares_are_whole_batches_in_a_row(count, batch, size):
    found = parallel.shares(count, batch, size)
    assert len(found) == size and found[0].start == 0 and found[-1].stop == count
    for a, b in zip(found, found[1:]):
        assert a.stop == b.start and (a.stop % batch == 0 or a.stop == count)
    lengths = [-(-(part.stop - part.start) // batch) for part in found]
    assert max(lengths) - min(lengths) <= 1 and lengths[0] == min(lengths)


def test_slices_are_shared_where_there_are_fewer_volumes_than_processes():
    assert parallel.split(1, 1, 2, False) and parallel.split(3, 3, 2, True)
    assert not parallel.split(2, 2, 2, False) and not parallel.split(1, 1, 1, True)
    assert not parallel.split(1, 9, 2, False)  # a volume among pictures, which are dealt out
    assert not parallel.split(0, 1, 2, False)
    with pytest.raises(Refusal, match="shares the slices of volumes"):
        parallel.split(0, 3, 2, True)


def port() -> int:
    """One that is free now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Uneven(nn.Module):
    """Not linear, and it knows rows from columns; it fails once where it is told to."""

    any_size = True

    def __init__(self):
        super().__init__()
        self.fails = 0

    def forward(self, x, time, label=None):
        self.fails -= 1
        if self.fails == 0:
            raise ZeroDivisionError
        return (x + 0.5 * x.roll(1, -1)).tanh() * (1 + time[:, None, None, None])


def one_of(rank: int, size: int, number: int, folder: str) -> None:
    """A process of a group: D of a volume, its vector-Jacobian product, and D again after a failure of the first's own."""
    where = f"tcp://127.0.0.1:{number}"
    init_process_group("gloo", where, rank=rank, world_size=size)
    prior = Prior(EDM(Uneven()), (1, 9, 7)).double()
    slices = parallel.Slices(prior, torch.device("cpu"))
    if rank:
        slices.serve()
    else:
        generator = torch.Generator().manual_seed(1)
        x, c = torch.randn(2, 2, 1, 9, 9, 7, generator=generator, dtype=torch.float64)
        sigma = torch.tensor([0.3, 2.0], dtype=torch.float64)
        found = {}
        for name, spread in (("alone", None), ("together", slices)):
            shape, planes = (1, 9, 9, 7), ("axial", "sagittal")
            volume = VolumePrior(prior, shape, planes, batch=2, spread=spread)
            prior.denoiser.network.fails = 0
            D, pull = torch.func.vjp(partial(volume.denoise, sigma=sigma), x)
            leaf = x.clone().requires_grad_()
            volume.denoise(leaf, sigma).backward(c)
            found[name] = {"D": D.detach(), "pulled": pull(c)[0].detach(), "grad": leaf.grad}
        prior.denoiser.network.fails = 1
        with pytest.raises(ZeroDivisionError):
            volume.denoise(x, sigma)
        found["again"] = volume.denoise(x, sigma)
        slices.end()
        torch.save(found, f"{folder}/found.pt")
    destroy_process_group()


@pytest.mark.parametrize("size", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_several_processes_are_one_denoiser_with_its_derivative(size, tmp_path):
    mp.spawn(one_of, (size, port(), str(tmp_path)), size)
    found = torch.load(tmp_path / "found.pt")
    for name, alone in found["alone"].items():
        assert torch.equal(found["together"][name], alone), name
    assert torch.equal(found["again"], found["alone"]["D"])


def together(world: Path, data: Path, out: Path, *more: str, solver: str, devices: int = 2) -> list:
    words = ["--data-root", str(data), "--devices", str(devices), *more]
    return tiny.command(
        *tiny.words(world, out, *words, task="thick", solver=solver, model="anysize")
    )


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_PORT": str(port())}


@pytest.mark.parametrize("solver", ["daps", pytest.param("trace", marks=pytest.mark.slow)])
def test_two_processes_restore_one_volume_as_one_does(world, tmp_path, solver):
    """To the byte, draws and their spread too; the record counts the same calls."""
    data = head(tmp_path / "in", 17, 19, 20)
    more = (
        ["--num-samples", "2", "--batch-size", "3"] if solver == "daps" else ["--batch-size", "3"]
    )
    assert run(world, data, tmp_path / "one", *more, solver=solver) == 0
    done = subprocess.run(
        together(world, data, tmp_path / "two", *more, solver=solver),
        capture_output=True, text=True, env=environment(), timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 processes share the slices of each volume" in done.stdout
    assert tiny.restored(tmp_path / "two") == tiny.restored(tmp_path / "one")
    one, two = (tiny.records(tmp_path / name)["head"] for name in ("one", "two"))
    for record in (one, two):
        del record["seconds"]
    assert one == two and one["nfe"] > 0


SLOW = """
import sys, time
import sample
from ldm.denoiser import Prior
from solvers.run import interrupted, topology
denoise = Prior.denoise
def slow(self, x, sigma, noise=None):
    time.sleep(0.1)
    return denoise(self, x, sigma, noise)
Prior.denoise = slow
interrupted.Savings.__init__.__defaults__ = (0.0,)
sys.argv[0] = {script!r}
topology.heed()
sys.exit(sample.main(sys.argv[1:]))
"""


def test_a_killed_process_ends_the_run_and_one_goes_on_from_its_last_level(world, tmp_path):
    """The helper is killed with its state saved: the first one ends within seconds; a single process goes on, to the byte."""
    data = head(tmp_path / "in", 17, 19, 20)
    (tmp_path / "slow.py").write_text(SLOW.format(script=str(tmp_path / "slow.py")))
    words = together(world, data, tmp_path / "two", "--batch-size", "3", solver="pnp")[2:]
    root = str(Path(__file__).parents[1])
    first = subprocess.Popen(
        [sys.executable, str(tmp_path / "slow.py"), *words],
        env={**environment(), "PYTHONPATH": root}, stderr=subprocess.PIPE, text=True,
        stdout=subprocess.DEVNULL, cwd=root, start_new_session=True,
    )  # fmt: skip
    saved = tmp_path / "two" / interrupted.STATE
    until = time.monotonic() + 120
    while first.poll() is None and not any(saved.glob("*.pt")) and time.monotonic() < until:
        time.sleep(0.02)
    (helper,) = children(first.pid)
    os.kill(helper, signal.SIGKILL)
    _, said = first.communicate(timeout=60)
    assert first.returncode not in (0, None)
    assert any(saved.glob("*.pt")) and not (tmp_path / "two" / "recon").exists()
    assert first.returncode == -signal.SIGKILL or "a process of this run was killed" in said
    assert run(world, data, tmp_path / "one", "--batch-size", "3") == 0
    words = ["--batch-size", "3"]
    assert run(world, data, tmp_path / "two", *words) == 0
    assert tiny.restored(tmp_path / "two") == tiny.restored(tmp_path / "one")
    assert tiny.records(tmp_path / "two")["head"]["nfe"] < 4


def children(pid: int) -> list[int]:
    """The processes that a process has started and that run the same program."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def test_two_volumes_are_shared_slice_by_slice_where_that_is_asked_for(world, tmp_path):
    data = tmp_path / "in"
    for name in ("a.nii.gz", "b.nii.gz"):
        head(data, 16, 17, 16, name=name)
    done = subprocess.run(
        together(world, data, tmp_path / "split", "--split-volumes", solver="pnp"),
        capture_output=True, text=True, env=environment(), timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "share the slices of each volume" in done.stdout
    assert run(world, data, tmp_path / "one") == 0
    assert tiny.restored(tmp_path / "split") == tiny.restored(tmp_path / "one")
    assert len(tiny.restored(tmp_path / "split")) == 2
