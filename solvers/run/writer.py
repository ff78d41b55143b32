"""Results leave the program here, one image at a time, so memory does not grow with the manifest."""

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import BasePredictionWriter

from data.files import Refusal, Unwritable
from solvers.run.door import complain
from solvers.run.module import Reconstruction
from solvers.run.process import Part
from solvers.run.record import Outcome, broken, failed
from solvers.run.results import Results


class Writer(BasePredictionWriter):
    """One result folder per cell of the grid, in the order of the data loaders. Images committed before are left as they are.

    parts: what this process does of each, which are told of every batch that is on the disk.
    """

    def __init__(self, results: Sequence[Results], parts: Sequence[Part]):
        super().__init__("batch")
        self.results, self.parts = results, parts
        self.done: list[set[str]] = []

    def on_predict_start(self, trainer: pl.Trainer, pl_module: Reconstruction) -> None:  # type: ignore[override]
        self.done = [results.committed() for results in self.results]
        total = sum(len(loader) * loader.dataset.batch_size for loader in trainer.predict_dataloaders)  # type: ignore[union-attr]
        pl_module.progress.start(total, trainer.is_global_zero, trainer.global_rank)
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
            if outcome.image_id in self.done[dataloader_idx]:
                continue
            if outcome.trace and outcome.image is not None:  # else the line about its failure says so
                complain(
                    "note", f"{outcome.image_id}: its batch met {outcome.trace.splitlines()[-1]}; restored one by one, see logs/"
                )
            try:
                self.results[dataloader_idx].commit(outcome)
            except Unwritable:  # nor will the others' files be: the run ends here, before more is computed for nothing
                raise
            except Refusal as error:  # its file's format cannot hold the result; others' may
                self.results[dataloader_idx].commit(failed(outcome.scan, str(error)))
            except (OSError, MemoryError):
                raise
            except Exception as error:
                self.results[dataloader_idx].commit(broken(outcome.scan, error))
        self.parts[dataloader_idx].committed([outcome.record for outcome in prediction])
        pl_module.progress.finished(len(prediction))

    def on_predict_end(self, trainer: pl.Trainer, pl_module: Reconstruction) -> None:  # type: ignore[override]
        pl_module.progress.close()
        trainer.strategy.barrier("every process has committed its last image")
