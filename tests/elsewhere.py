"""A second device without a second processor: a tensor there holds an ordinary one, and no operation takes tensors of both
places, as on a GPU. What forgets to move a tensor fails on any machine, and what moves them all gives the CPU's own numbers.

Importing this gives the process that device, for good; `tests/elsewhere_cases.py` therefore runs in a process of its own.
"""

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend as register

register("elsewhere")
torch.elsewhere.get_amp_supported_dtype = lambda: [torch.bfloat16]  # type: ignore[attr-defined]  # asked even where autocast is off
DEVICE = torch.device("elsewhere:0")
aten = torch.ops.aten
# a GPU's tensors, too, are copied from the CPU and indexed by what lies there
ACROSS = {
    aten.copy_.default,
    aten.index.Tensor,
    aten.index_put_.default,
    aten.index_put.default,
    aten._index_put_impl_.default,
}
# a lazy conjugate is a mark on a tensor that is read before an operation comes here, so the inner tensors must not have it
AT_ONCE = {aten._conj.default: aten.conj_physical.default, aten._neg_view.default: aten.neg.default}


class Elsewhere(Tensor):
    """A tensor of DEVICE; `held` is what it holds."""

    @staticmethod
    def __new__(cls, real: Tensor):
        layout = (
            {}
            if real.layout != torch.strided
            else {"strides": real.stride(), "storage_offset": real.storage_offset()}
        )
        return Tensor._make_wrapper_subclass(
            cls, real.shape, dtype=real.dtype, device=DEVICE, **layout
        )  # type: ignore[attr-defined]

    def __init__(self, real: Tensor):
        self.held = real.detach()

    def __repr__(self, **_):
        return f"Elsewhere({self.held!r})"

    def tolist(self):
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        known: dict[
            int, Tensor
        ] = {}  # what the arguments hold -> the arguments, which in-place operations return
        here = []

        def opened(x):
            if not isinstance(x, Tensor):
                return x
            inner = x.held if isinstance(x, Elsewhere) else x
            known[id(inner)] = x
            if inner is x and x.dim() > 0:  # a number may come from anywhere
                here.append(tuple(x.shape))
            return inner

        args, kwargs = tree_map(opened, args), tree_map(opened, kwargs or {})
        if here and func not in ACROSS:
            raise RuntimeError(
                f"{func}: all tensors must be on one device, but {here} are on the CPU"
            )
        leaves = (
            kwargs.get("device") is not None and torch.device(kwargs["device"]).type != DEVICE.type
        )
        if kwargs.get("device") is not None:
            kwargs["device"] = torch.device("cpu")

        def closed(x):
            return (
                known[id(x)]
                if id(x) in known
                else Elsewhere(x)
                if isinstance(x, Tensor) and not leaves
                else x
            )

        return tree_map(closed, AT_ONCE.get(func, func)(*args, **kwargs))

    __torch_function__ = torch._C._disabled_torch_function_impl


def empty(size, dtype=None, **_):
    return Elsewhere(torch.empty(size, dtype=dtype))


def empty_strided(size, stride, dtype=None, **_):
    return Elsewhere(torch.empty_strided(size, stride, dtype=dtype))


def copy_from(source, target, non_blocking=False):
    held = [x.held if isinstance(x, Elsewhere) else x for x in (source, target)]
    held[1].copy_(held[0])
    return target


def no_tangent(size, dtype=None, device=None, **_):
    """Zeros with storage: operations here cannot read those without."""
    zeros = torch.zeros(size, dtype=dtype)
    return Elsewhere(zeros) if torch.device(device or "cpu").type == DEVICE.type else zeros


library = torch.library.Library("aten", "IMPL")
for name, made in {
    "empty.memory_format": empty,
    "empty_strided": empty_strided,
    "_copy_from": copy_from,
}.items():
    library.impl(name, made, "PrivateUse1")
for key in ("PrivateUse1", "CPU"):
    library.impl("_efficientzerotensor", no_tangent, key)
