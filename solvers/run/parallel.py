"""The slices of a volume denoised by several processes: the first runs the solver, the others do the network calls it sends.

The first alone holds the volume, its update, its random streams and its files, so nothing is computed twice or could come
apart. Slices meet the network in the very batches that one process makes of them: the result is the same to the bit where
the processes compute alike, else to what batches differ by anywhere.
"""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from data.files import Refusal
from ldm.denoiser import Prior

END, DENOISE, PULL = range(3)  # what the first process asks for
TYPES = (torch.float32, torch.float64)
WAIT = timedelta(days=7)  # for the first process's next word, which a large update may keep


class Slices:
    """The processes of this group as one denoiser of slices: called as (slices [N,C,H,W], sigma [N], batch).

    prior: of slices, the same in every process. autocast: type of the network in mixed precision. beat: called by the others
    at every word, as a sign of life.
    """

    def __init__(
        self,
        prior: Prior,
        device: torch.device,
        autocast: torch.dtype | None = None,
        beat: Callable[[], None] = lambda: None,
    ):
        self.prior, self.device, self.autocast, self.beat = prior, device, autocast, beat
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.group: Any = dist.new_group(timeout=WAIT)

    def __call__(self, slices: Tensor, sigma: Tensor, batch: int) -> Tensor:
        """D(slices, sigma); may be differentiated in the slices, once, by what `autograd` and `torch.func.vjp` do."""
        return _Spread.apply(slices, sigma, self, batch)  # type: ignore[no-any-return]

    def ask(self, kind: int, batch: int, tensors: Sequence[Tensor]) -> Tensor:
        """The first process's: what `work` makes of tensors that count the same slices, everybody's share together."""
        slices = tensors[0]
        parts = shares(len(slices), batch, self.size)
        self._word(kind, batch, *slices.shape, TYPES.index(slices.dtype))
        sent = [
            dist.isend(tensor[part], rank, self.group)
            for rank, part in enumerate(parts)
            for tensor in tensors
            if rank and part.stop > part.start
        ]
        try:
            pieces = [self.work(kind, batch, [tensor[parts[0]] for tensor in tensors])]
        finally:  # whatever happens here, the others have answered before they are asked again
            answers = [
                self._received(rank, slices[part]) for rank, part in enumerate(parts) if rank
            ]
            for one in sent:
                one.wait()  # type: ignore[union-attr]
        return torch.cat([*pieces, *answers])

    def serve(self) -> None:
        """The others': do what the first process asks for, until it needs no more."""
        while True:
            kind, batch, count, *shape, code = self._word(*[0] * 7)
            self.beat()
            if kind == END:
                return
            part = shares(count, batch, self.size)[self.rank]
            own = part.stop - part.start
            if not own:
                continue
            empty = torch.empty(own, *shape, dtype=TYPES[code], device=self.device)
            sizes = [empty, empty[:, 0, 0, 0], empty][: 3 if kind == PULL else 2]
            tensors = [self._received(0, like) for like in sizes]
            dist.send(self.work(kind, batch, tensors).contiguous(), 0, self.group)

    def end(self) -> None:
        """The first process's last word."""
        self._word(END, *[0] * 6)

    def work(self, kind: int, batch: int, tensors: Sequence[Tensor]) -> Tensor:
        """D of slices at their levels, or what (slices, levels, cotangents) pull back to; so many at a time."""
        low = torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None)
        made = [tensors[0][:0]]
        for one, sigma, *rest in zip(*(tensor.split(batch) for tensor in tensors)):
            with low:
                made.append(self._one(one.contiguous(), sigma, *rest).to(one.dtype))
        return torch.cat(made)

    def _one(self, slices: Tensor, sigma: Tensor, cotangent: Tensor | None = None) -> Tensor:
        if cotangent is None:
            with torch.no_grad():
                return self.prior.denoise(slices, sigma)
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            pull: Any = torch.func.vjp(lambda x: self.prior.denoise(x, sigma), slices)[1]
            return pull(cotangent)[0].detach()  # type: ignore[no-any-return]

    def _word(self, *numbers: int) -> list[int]:
        """What the first process says: kind, slices in a batch, shape of all slices, and their type."""
        word = torch.tensor(numbers, dtype=torch.int64, device=self.device)
        dist.broadcast(word, 0, self.group)
        return word.tolist()

    def _received(self, rank: int, like: Tensor) -> Tensor:
        found = torch.empty_like(like, memory_format=torch.contiguous_format)
        if len(like):
            dist.recv(found, rank, self.group)
        return found


class _Spread(torch.autograd.Function):
    """D of slices by several processes; the derivative computes D again, each process its own share."""

    @staticmethod
    def forward(slices: Tensor, sigma: Tensor, spread: Slices, batch: int) -> Tensor:
        return spread.ask(DENOISE, batch, [slices.contiguous(), sigma.contiguous()])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.spread, ctx.batch = inputs[2:]
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        slices, sigma = ctx.saved_tensors
        asked = [slices.contiguous(), sigma.contiguous(), gradient.contiguous()]
        return ctx.spread.ask(PULL, ctx.batch, asked), None, None, None


def shares(count: int, batch: int, size: int) -> list[slice]:
    """Which of `count` slices each of `size` processes denoises: whole batches in a row, the first process the fewest."""
    batches = -(-count // batch)
    edges = [min(batches * rank // size * batch, count) for rank in range(size + 1)]
    return [slice(a, b) for a, b in zip(edges, edges[1:])]


def split(volumes: int, units: int, processes: int, asked: bool) -> bool:
    """Whether the slices of volumes are shared, and not whole volumes. units: volumes and pictures that there are.

    They are where it is asked for, and where there are fewer to restore than processes. Raises Refusal where there is nothing
    to share.
    """
    if asked and not volumes:
        raise Refusal("--split-volumes shares the slices of volumes restored as one; here is none")
    return processes > 1 and volumes > 0 and (asked or units < processes)
