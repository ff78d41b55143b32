"""A folder of images of any known kind becomes a data set: square PNGs, manifests with checksums, and a journal to go on from.

The work is planned first (which files, whose, which split, what name), then done one file at a time by any number of
processes, in order and with bounded memory. Each finished file is a line of the journal `<root>/.progress.jsonl`. A run
that was killed, or that found unreadable files, goes on with what is missing, as long as the same is asked of it. Pictures
appear whole or not at all.
"""

import errno
import os
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import connection, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import torch

from data import formats
from data.files import Refusal, digest, replacing
from data.formats import raster
from data.prepare.journal import Journal
from data.prepare.plan import Plan, Source
from data.prepare.recipe import Recipe, contract, picture
from data.prepare.within import LEAK

BINS = 64  # of the intensity histograms
AHEAD = 4  # files per worker that may be waiting
# Trouble with where the pictures go, not with where they come from.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
FOREGROUND = 0.1  # a pixel above this part of the range shows something


@dataclass(frozen=True)
class Done:
    """What became of one file."""

    file: str  # relative to its folder
    split: str
    stamp: list[int]  # size and time of change, to notice another file of the same name
    images: list[dict[str, Any]]  # manifest columns, and what the report is made of
    passed: int = 0  # slices with too little foreground
    reason: str = ""  # why the file was skipped
    gap: int = 0  # slices left out between two splits


def work(source: Source, recipe: Recipe, root: Path) -> Done:
    """Make all pictures of a file. A file that cannot be read is told in the result; only trouble with the disk is raised."""
    images: list[dict[str, Any]] = []
    passed = gap = 0
    stamp = [0, 0]
    try:
        status = source.path.stat()
        stamp = [status.st_size, status.st_mtime_ns]
        total = formats.count(source.path, recipe.axis)
        for index in range(total):
            image_id = source.image_id if total == 1 else f"{source.image_id}-{index:04d}"
            split = source.place(index)
            if not split:
                gap += 1
                continue
            target = root / split / f"{image_id}.png"
            shape = ends = None
            if not (recipe.keep and target.exists()):
                image = formats.upright(
                    formats.read(source.path, index if total > 1 else None, recipe.axis)
                )
                intensity = contract(source, recipe, image)
                shape = list(image.pixels.shape[-2:])
                ends = f"{intensity.low:g}:{intensity.high:g}"
                bits = recipe.bits or (8 if image.meta.dtype in ("uint8", "bool") else 16)
                unit = picture(image, intensity, recipe)
                if float((unit > FOREGROUND).mean()) < recipe.min_foreground:
                    passed += 1
                    continue
                _save(unit, bits, target)
            images.append(
                _manifest_row(target, image_id, source, split, shape, recipe.size)
                | {"contract": ends}
            )
    except (Refusal, OSError, MemoryError) as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        for described in images:
            (root / described["path"]).unlink(missing_ok=True)  # half a volume is no volume
        told = error.strerror or "" if isinstance(error, OSError) else str(error)
        told = "does not fit into the memory" if isinstance(error, MemoryError) else told
        reason = told.removeprefix(f"{source.path}: ") or type(error).__name__
        return Done(source.name, source.split, stamp, [], 0, reason)
    return Done(source.name, source.split, stamp, images, passed, gap=gap)


def _save(unit: np.ndarray, bits: int, target: Path) -> None:
    depth = 2**bits - 1
    pixels = torch.from_numpy(np.round(unit.astype(np.float64) * depth).astype(np.float32))
    content = raster.encode([formats.Image(pixels, formats.Meta("png", f"uint{bits}"))])
    with replacing(
        target, sync=False
    ) as file:  # the manifest's checksum tells if a power cut took it
        file.write(content)


def _manifest_row(
    target: Path, image_id: str, source: Source, split: str, shape: list[int] | None, size: int
) -> dict[str, Any]:
    """The manifest's columns for a picture on disk; and its source's shape and its histogram, for the report."""
    content = target.read_bytes()
    image = raster.decode(content, target, "png")
    depth = image.meta.window or (0.0, 1.0)
    histogram = torch.histc(image.pixels, BINS, *depth).int().tolist()
    return {
        "path": f"{split}/{target.name}",
        "image_id": image_id,
        "subject": source.subject,
        "split": split,
        "leak": LEAK if source.places else "",
        "window": f"{depth[0]:g}:{depth[1]:g}",
        "sha256": digest(content),
        "shape": shape,
        "enlarged": shape is not None and min(shape) < size,
        "histogram": histogram,
    }


def run(planned: Plan, recipe: Recipe, root: Path, workers: int, strict: bool) -> Iterator[Done]:
    """The outcome of every file, in the order of the plan: from the journal where it is done, else by `work`.

    strict: the first file that cannot be read raises Refusal.
    """
    for split in planned.splits:
        (root / split).mkdir(parents=True, exist_ok=True)
        for left in (root / split).glob(".*.png.*"):  # of a run that was killed
            left.unlink(missing_ok=True)
    for folder, reason in planned.unreadable:
        if strict:
            raise Refusal(f"{folder}: {reason}")
        yield Done(folder, "", [0, 0], [], 0, reason)
    with Journal(
        root / ".progress.jsonl", {"recipe": asdict(recipe), "folders": planned.folders}
    ) as journal:
        for outcome, fresh in _ordered(planned.sources, recipe, root, workers, journal):
            if outcome.reason and strict:
                raise Refusal(f"{outcome.file}: {outcome.reason}")
            if fresh:
                journal.add(asdict(outcome))
            yield outcome


def _ordered(
    sources: Iterable[Source], recipe: Recipe, root: Path, workers: int, journal: Journal
) -> Iterator[tuple[Done, bool]]:
    """(outcome, whether it is new); never more than a few files per worker ahead."""
    pool = ProcessPoolExecutor(workers, initializer=_begin) if workers > 1 else None
    waiting: deque[tuple[Done | Future[Done], bool]] = deque()
    try:
        for source in sources:
            known = _made_before(journal.get(source.split, source.name), source, root)
            if known is not None:
                waiting.append((known, False))
            elif pool:
                waiting.append((pool.submit(work, source, recipe, root), True))
            else:
                waiting.append((work(source, recipe, root), True))
            while waiting and (len(waiting) > AHEAD * workers or not pool):
                yield _result(waiting.popleft())
        while waiting:
            yield _result(waiting.popleft())
    except BrokenProcessPool:
        raise Refusal(
            "a worker process was killed, perhaps for want of memory; run again with fewer --workers"
        ) from None
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """In a worker: one thread, no part in a Ctrl-C (the parent stops the work), and no life after the parent's."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _result(entry: tuple[Done | Future[Done], bool]) -> tuple[Done, bool]:
    outcome, fresh = entry
    return (outcome.result() if isinstance(outcome, Future) else outcome), fresh


def _made_before(record: dict[str, Any] | None, source: Source, root: Path) -> Done | None:
    """What the journal says of a file, if the file is the same and its pictures are there; failures are tried again."""
    if (
        record is None
        or record["reason"]
        or not all((root / image["path"]).exists() for image in record["images"])
    ):
        return None
    try:
        status = source.path.stat()
    except OSError:  # gone since it was found; `work` tells
        return None
    return Done(**record) if record["stamp"] == [status.st_size, status.st_mtime_ns] else None
