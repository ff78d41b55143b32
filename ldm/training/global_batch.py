"""A run that goes on with another number of processes: an optimiser step keeps its images, and counters follow the batches.

The images of an optimiser step are batch size x processes x accumulated batches. Lightning counts batches of one process, so
that after a change of the first two its counters, and the intervals that are given in batches, are those of other batches.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from data.files import Refusal

PROGRESS = "epoch_loop.batch_progress"
INTERVALS = "val_check_interval", "limit_train_batches"  # in batches, where they are whole numbers


class Place(NamedTuple):
    """Where a run stands, as its loader says (`data.epoch.TrainingLoader`); rows are counted over all processes."""

    epoch: int
    rows: int  # of the epoch's order that were used
    batch: int  # rows that all processes read at once
    step: int  # rows of an optimiser step: `batch` times the batches that are accumulated


def place_in(checkpoint: Mapping[str, Any]) -> Place | None:
    """Where the run stood; None: the file is of a version that did not say, or of another loader."""
    found: Any = checkpoint
    for key in ("loops", "fit_loop", "state_dict", "combined_loader"):
        found = found.get(key, {}) if isinstance(found, Mapping) else {}
    found = found[0] if found and isinstance(found[0], Mapping) else {}
    return Place(**found) if found.keys() == set(Place._fields) else None


def dealt(step: int, processes: int, batch: int, accumulated: int) -> tuple[int, int]:
    """Batch size of a process, and batches that it accumulates, for optimiser steps of so many images.

    batch, accumulated: what is asked for, which is so where it fits; else the largest batch size that is not above it.
    Raises Refusal if the images cannot be dealt evenly.
    """
    if batch * processes * accumulated == step:
        return batch, accumulated
    own, left = divmod(step, processes)
    if left:
        raise Refusal(
            f"the checkpoint's optimiser steps have {step} images, which {processes} processes cannot share evenly; "
            f"a number that divides {step} is allowed"
        )
    fits = max(size for size in range(1, min(batch, own) + 1) if own % size == 0)
    return fits, own // fits


def keep(trainer: Any, data: Any, place: Place) -> str:
    """Set batch size and accumulation so that steps have the images they had; what was changed, "" if nothing.

    trainer: Lightning's, before it fits. data: a data module with `batch_size`.
    """
    processes, asked = (
        trainer.num_devices * trainer.num_nodes,
        (data.batch_size, trainer.accumulate_grad_batches),
    )
    chosen = dealt(place.step, processes, *asked)
    if chosen == asked:
        return ""
    for name in INTERVALS:
        batches = getattr(trainer, name)
        if isinstance(batches, int):
            setattr(trainer, name, max(1, round(batches * chosen[1] / asked[1])) if batches else 0)
    data.batch_size, trainer.accumulate_grad_batches = chosen
    return (
        f"optimiser steps keep their {place.step} images: {processes} process{'es' * (processes > 1)}, "
        f"batches of {chosen[0]}, {chosen[1]} accumulated"
    )


def recount(checkpoint: Mapping[str, Any], batch: int) -> None:
    """Put Lightning's batch counters in batches of so many rows over all processes, in place of the checkpoint's own."""
    place = place_in(checkpoint)
    if place is None or place.batch == batch:
        return
    progress = checkpoint["loops"]["fit_loop"][PROGRESS]
    for counts in (progress["total"], progress["current"]):
        ready = counts["ready"]
        now = -(-ready * place.batch // batch)
        for name in counts:  # the last one may not be completed yet
            counts[name] = max(0, now - (ready - counts[name]))
