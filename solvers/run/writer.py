"""Results leave the program here, one image at a time, so memory does not grow with the manifest."""

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import BasePredictionWriter

from data.files import Refusal, Unwritable
from data.series import Whole, members
from solvers.run.door import complain
from solvers.run.interrupted import Savings
from solvers.run.module import Reconstruction
from solvers.run.process import Part
from solvers.run.record import Outcome, broken, failed
from solvers.run.results import Results


class Writer(BasePredictionWriter):
    """One result folder per cell of the grid, in the order of the data loaders. Images committed before are left as they are.

    parts: what this process does of each, which are told of every batch that is on the disk.
    """

    def __init__(self, results: Sequence[Results], parts: Sequence[Part], behind: bool = False):
        super().__init__("batch")
        self.results, self.parts = results, parts
        self.done: list[set[str]] = []
        self.savings: list[Savings | None] = []
        self.behind = Behind(self.commit) if behind else None

    def on_predict_start(self, trainer: pl.Trainer, pl_module: Reconstruction) -> None:  # type: ignore[override]
        loaders: Any = trainer.predict_dataloaders
        self.done = [loader.sampler.done for loader in loaders]
        total = sum(len(loader) * loader.dataset.batch_size for loader in loaders)
        rows = loaders[0].dataset.rows
        volumes = members(row for row in rows if getattr(row, "volume", ""))
        volumes |= {row.image_id: [row.image_id] for row in rows if isinstance(row, Whole)}
        self.savings = [pl_module.savings.get(cell.name) for cell in pl_module.cells]
        pl_module.progress.start(total, trainer.is_global_zero, volumes, trainer.global_rank)
        trainer.strategy.barrier("every process has seen what is committed; none has added to it")

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: Reconstruction,  # type: ignore[override]
        prediction: Sequence[Outcome],
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        for outcome in prediction:
            pl_module.progress.image(outcome.record)
        if self.behind:
            self.behind.add(prediction, dataloader_idx)
        else:
            self.commit(prediction, dataloader_idx)
        pl_module.progress.finished(len(prediction))

    def commit(self, prediction: Sequence[Outcome], cell: int) -> None:
        """Write what is not written yet, and tell whoever counts."""
        for outcome in prediction:
            if outcome.image_id in self.done[cell]:
                continue
            if (
                outcome.trace and outcome.image is not None
            ):  # else the line about its failure says so
                met = f"its batch met {outcome.trace.splitlines()[-1]}; restored one by one"
                log = self.results[cell].log(outcome.image_id)
                complain("note", f"{outcome.image_id}: {met}; traceback: {log}")
            try:
                self.results[cell].commit(outcome)
            except Unwritable:  # nor will the others' files be: the run ends here, before more is computed for nothing
                raise
            except Refusal as error:  # its file's format cannot hold the result; others' may
                self.results[cell].commit(failed(outcome.scan, str(error)))
            except (OSError, MemoryError):
                raise
            except Exception as error:
                self.results[cell].commit(broken(outcome.scan, error))
            if savings := self.savings[cell]:
                savings.clear(outcome.image_id)
        self.parts[cell].committed([outcome.record for outcome in prediction])

    def on_predict_end(self, trainer: pl.Trainer, pl_module: Reconstruction) -> None:  # type: ignore[override]
        if self.behind:
            self.behind.finish()
        pl_module.progress.close()
        trainer.strategy.barrier("every process has committed its last image")


class Behind:
    """Calls `work` in a thread of its own, in order, at most `most` calls behind; what it raises is raised at the next call."""

    def __init__(self, work: Callable[..., None], most: int = 2):
        self.work = work
        self.error: BaseException | None = None
        self.waiting: queue.Queue[tuple | None] = queue.Queue(most)
        self.thread = threading.Thread(
            target=self._run, daemon=True
        )  # what it has not written is computed again
        self.thread.start()

    def add(self, *arguments: Any) -> None:
        self._complain()
        self.waiting.put(arguments)

    def finish(self) -> None:
        """Wait until all is done."""
        self.waiting.put(None)
        self.thread.join()
        self._complain()

    def _run(self) -> None:
        while (arguments := self.waiting.get()) is not None:
            if (
                self.error is None
            ):  # after an error nothing more is written, but nobody waits either
                try:
                    self.work(*arguments)
                except BaseException as error:
                    self.error = error

    def _complain(self) -> None:
        if self.error is not None:
            raise self.error
