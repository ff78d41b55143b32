"""Peak memory of solvers, each in a process of its own: part of `python scripts/benchmark.py solvers` (Linux only)."""

import multiprocessing
import os
from pathlib import Path

import torch
from benchmark_rows import Row
from benchmark_worlds import latent_prior, pixel_prior, pose, run

from solvers.codps import CoDPSPlus
from solvers.condition import condition
from solvers.daps import DAPS
from solvers.dps import DPS
from solvers.operators import CT, SuperResolution
from solvers.padis import PaDIS
from solvers.psld import PSLD

SIZE, MIB = 256, 2**20
OPERATORS = {"super-resolution": SuperResolution(4), "CT, 20 views": CT(views=20)}
FREE = {"DAPS": DAPS(steps=3), "CoDPS+": CoDPSPlus(steps=3), "PaDIS, DDNM": PaDIS(steps=3)}
GRADIENT = {"DPS": (pixel_prior, DPS), "PSLD": (latent_prior, PSLD)}


def job(kind: str, name: str, operator: str) -> None:
    """What a process does between the two readings."""
    if kind == "network":
        prior = pixel_prior(SIZE)
        with torch.no_grad():
            prior.denoise(torch.zeros(1, *prior.shape), torch.ones(1))
    elif kind == "operator":
        condition(torch.zeros(1, 1, SIZE, SIZE), 0.25, pose(OPERATORS[operator], SIZE))
    elif kind == "solver":
        run(FREE[name], pose(OPERATORS[operator], SIZE), pixel_prior(SIZE))
    else:
        prior, solver = GRADIENT[name]
        run(
            solver(steps=2, checkpoint=kind == "checkpointed"),
            pose(OPERATORS[operator], SIZE),
            prior(SIZE),
        )


def measure(pipe, work: tuple[str, str, str]) -> None:
    """MiB that the job had at once, beyond what the process had before."""
    torch.set_num_threads(1)
    torch.nn.functional.conv2d(
        torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 3, 3)
    )  # libraries that load on first use
    torch.fft.fft2(torch.zeros(8, 8))
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = status("VmRSS")
    job(*work)
    pipe.send(status("VmHWM") - before)


def status(field: str) -> float:
    """A line of /proc/self/status, MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":")) / 1024


def peak(kind: str, name: str = "", operator: str = "super-resolution") -> float:
    """`measure` of one job in a fresh process, whose freed tensors go back to the system at once."""
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=measure, args=(theirs, (kind, name, operator)))
    process.start()
    theirs.close()
    found = ours.recv()
    process.join()
    return found


def memory() -> list[Row]:
    """Gradient-free solvers beside the network, the operator and six images; what checkpointing saves the others."""
    rows, network, image = [], peak("network"), SIZE**2 * 4 / MIB
    for operator in OPERATORS:
        parts = network + peak("operator", operator=operator) + 6 * image
        for name in FREE:
            share = peak("solver", name, operator) / parts
            rows.append(
                Row(
                    f"{name}, {operator}, 256^2: peak / (network + operator + 6 images)",
                    share,
                    1.2,
                    "x",
                )
            )
    for name in GRADIENT:
        share = peak("checkpointed", name) / peak("gradient", name)
        rows.append(
            Row(f"{name}, 256^2: peak with activation checkpointing / without", share, 0.7, "x")
        )
    return rows
