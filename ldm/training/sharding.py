"""Weights split over the processes of --strategy fsdp, and put together again."""

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(network: nn.Module, mesh: DeviceMesh) -> None:
    """Split a network's weights, block by block; once."""
    if isinstance(network, FSDPModule):
        return
    rows = [
        child for child in network.children() if isinstance(child, (nn.ModuleList, nn.ModuleDict))
    ]
    for block in (block for row in rows for block in row.children()):
        fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that is split over the processes; they must all ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def split_like(other: Tensor, tensor: Tensor) -> Tensor:
    """This process's part of a tensor that all have, if `other` is split."""
    if not isinstance(other, DTensor):
        return tensor
    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements)
