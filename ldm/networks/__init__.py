"""Networks: from a noisy state and a noise level to an estimate. They know nothing of schedules or training."""

from torch import Tensor, nn


def call(network: nn.Module, x: Tensor, time: Tensor, label: Tensor | None) -> Tensor:
    """The answer of a network called in its own precision; diffusers' networks wrap theirs in an object that holds `.sample`."""
    dtype = next((p.dtype for p in network.parameters()), x.dtype)
    x, time = x.to(dtype), time.to(dtype)
    output = network(x, time) if label is None else network(x, time, label)
    return getattr(output, "sample", output)
