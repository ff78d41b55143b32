"""Activation checkpointing changes memory and time, never a number."""

import pytest
import torch
from tiny import latent, pixel
from torch import nn

from data.seeding import Noise
from ldm.config import build
from ldm.networks.edm import SongUNet
from solvers.dps import DPS
from solvers.operators import SuperResolution
from solvers.problem import Gaussian, measure
from solvers.psld import PSLD
from solvers.recompute import blocks, recomputing

SHAPE, IDS = (1, 16, 16), ("a", "b")


def kept(prior: nn.Module, checkpointed: bool) -> int:
    """Entries that the graph of one network call holds for its backward pass."""
    count = 0

    def pack(tensor):
        nonlocal count
        count += tensor.numel()
        return tensor

    x = torch.zeros(2, *prior.shape, requires_grad=True)
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        recomputing(prior, checkpointed),
    ):
        prior.denoise(x, torch.ones(2))
    return count


@pytest.mark.parametrize("node, solver", [(pixel(), DPS), (latent(), PSLD)], ids=["dps", "psld"])
def test_recomputed_gradients_are_the_same(node, solver):
    torch.manual_seed(0)
    prior, noise = build(node).eval().requires_grad_(False).double(), Noise(IDS, "noise")
    x0 = noise.normal((2, *SHAPE), torch.float64) / 2
    problem = measure(SuperResolution(2).draw(SHAPE, noise), x0, Gaussian(0.05), noise)
    plain, again = (
        [*solver(steps=3, checkpoint=flag)(problem, prior, Noise(IDS, "solver"))][-1].x0
        for flag in (False, True)
    )
    assert torch.equal(plain, again)
    assert not any("forward" in vars(module) for module in prior.modules())
    assert kept(prior.float(), True) < 0.7 * kept(prior, False)


def test_a_block_holds_no_block():
    found = blocks(SongUNet(1, width=16, multipliers=(1, 1), blocks=1))
    assert len(found) > 4
    inner = {module for block in found for module in block.modules()} - set(found)
    assert not inner & set(found)
