"""For the checkpoint tests: random weights, published files written small, the VP formula the slow way."""

from pathlib import Path

import torch

GOLDEN = Path(__file__).parent / "golden"
TOLERANCE = 1e-4  # relative; float32 networks of these depths differ by 1e-6..1e-5 when sums are taken in another order


MOST = r"""
import re
def most():  # kB this process ever held; ru_maxrss would start at what the parent held when it forked
    return int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1])
"""


def randomise(module, seed=0):
    """Weights of the size of usual initialisations, norms near one: signals neither die nor explode on their way."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in module.parameters():
            fan = tensor[0].numel() if tensor.ndim > 1 else 1
            noise = torch.randn(tensor.shape, generator=generator)
            tensor.copy_(noise / fan**0.5 if tensor.ndim > 1 else tensor + 0.1 * noise)
    return module.eval()


def normal(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def close(a, b):
    """Maximum difference relative to the largest entry."""
    assert a.shape == b.shape
    return float((a - b).abs().max() / b.abs().max()) < TOLERANCE


def scaled_linear(start, end, n=1000):
    """alpha_bar by the slow product."""
    table, product = [], 1.0
    for i in range(n):
        root = start**0.5 + (end**0.5 - start**0.5) * i / (n - 1)
        product *= 1 - root * root
        table.append(product)
    return torch.tensor(table, dtype=torch.float64)


def linear(start, end, n=1000):
    table, product = [], 1.0
    for i in range(n):
        product *= 1 - (start + (end - start) * i / (n - 1))
        table.append(product)
    return torch.tensor(table, dtype=torch.float64)


def vp(network, x, t, table, predicts="eps"):
    """(sigma, D) at table entry t, from x_t = x / sqrt(1 + sigma^2)."""
    a = float(table[t])
    sigma = ((1 - a) / a) ** 0.5
    x_t = x * a**0.5
    with torch.no_grad():
        out = network(x_t, torch.full((len(x),), float(t)))[:, : x.shape[1]]
    x0 = (
        (x_t - (1 - a) ** 0.5 * out) / a**0.5
        if predicts == "eps"
        else a**0.5 * x_t - (1 - a) ** 0.5 * out
    )
    return torch.full((len(x),), sigma), x0


def golden(name, module):
    """The full-size layout must be the recorded one: `key shape` lines, in the order of the file."""
    lines = [
        f"{key} {'x'.join(map(str, tensor.shape)) or 'scalar'}"
        for key, tensor in module.state_dict().items()
    ]
    assert (GOLDEN / f"{name}.txt").read_text().splitlines() == lines


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def fits(described_state, module):
    """Keys and shapes agree, nothing is missing, nothing is left."""
    wanted = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    assert {key: tuple(tensor.shape) for key, tensor in described_state.items()} == wanted
