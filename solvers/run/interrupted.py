"""Long runs go on where they were killed: the state of a volume's draw is saved every few minutes, whole or not at all."""

import io
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.files import commit, digest
from data.seeding import Noise
from solvers.solver import Saved, Step

EVERY = 120.0  # seconds between two savings
STATE = "interrupted"  # the folder below the results


class Savings:
    """The saved states of one folder of results. config: digest of what they belong to, with the volume's own."""

    def __init__(self, folder: Path, config: str, every: float = EVERY):
        self.folder, self.config, self.every = folder / STATE, config, every
        self.last = time.monotonic()

    def path(self, image_id: str, k: int) -> Path:
        return self.folder / f"{digest(image_id)[:16]}-{k:03d}.pt"

    def load(self, image_id: str, k: int, scan: str) -> tuple[Saved | None, Tensor | None]:
        """Where a draw was, or its finished image. scan: digest of what is restored; states of another are not looked at."""
        self.last = time.monotonic()
        path = self.path(image_id, k)
        if not path.is_file():
            return None, None
        try:
            held = torch.load(path, weights_only=True)
        except Exception:  # whatever a damaged file raises: the draw begins anew
            return None, None
        if held.get("config") != self.config or held.get("scan") != scan:
            return None, None
        if "image" in held:
            return None, held["image"]
        return (held["t"], held["x"], held["streams"]), None

    def following(
        self, steps: Iterator[Step], noise: Noise, image_id: str, k: int, scan: str
    ) -> Iterator[Step]:
        """The steps of a draw, whose state is saved every now and then before the next begins."""
        for step in steps:
            yield step
            if time.monotonic() - self.last >= self.every:
                streams = [generator.get_state() for generator in noise.generators]
                self._write(
                    self.path(image_id, k),
                    {"scan": scan, "t": step.t, "x": step.x.cpu(), "streams": streams},
                )
                self.last = time.monotonic()

    def finish(self, image_id: str, k: int, scan: str, image: Tensor) -> None:
        """A draw that is done, while others of its volume are not."""
        self._write(self.path(image_id, k), {"scan": scan, "image": image.cpu()})

    def clear(self, image_id: str) -> None:
        """Forget a volume, which is committed or has failed."""
        for path in self.folder.glob(f"{digest(image_id)[:16]}-*.pt"):
            path.unlink(missing_ok=True)

    def tidy(self) -> None:
        """Remove the folder if nothing is left in it; not while a process may save there."""
        with suppress(OSError):
            self.folder.rmdir()

    def _write(self, path: Path, content: dict[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        out = io.BytesIO()
        torch.save({"config": self.config, **content}, out)
        commit(path, out.getvalue())
