"""Activation checkpointing for solvers that differentiate through the prior's networks: slower by a forward pass, smaller."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint


@contextmanager
def recomputing(prior: nn.Module, active: bool = True) -> Iterator[None]:
    """While open, every block of the prior's networks keeps its input alone, and is run again by the backward pass.

    A block is a member of a list or dictionary of modules that holds no such list itself: what diffusers and the EDM
    networks are built of. Blocks must not draw random numbers, which networks in evaluation mode do not.
    """
    found = blocks(prior) if active else []
    for block in found:
        block.forward = partial(
            checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False
        )
    try:
        yield
    finally:
        for block in found:
            del block.forward  # the instance's own; the class's is seen again


def blocks(prior: nn.Module) -> list[nn.Module]:
    """The innermost members of module lists and dictionaries, each once."""
    lists = (nn.ModuleList, nn.ModuleDict)
    members = {
        child
        for module in prior.modules()
        if isinstance(module, lists)
        for child in module.children()
    }
    return [
        module
        for module in members
        if not any(isinstance(inner, lists) for inner in module.modules())
    ]
