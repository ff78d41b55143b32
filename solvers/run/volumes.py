"""Restored slices put together into the volume, stack or DICOM series that they were read from: one result of one input."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data import formats
from data.files import Refusal, Unwritable
from solvers.run.committed import RECORDS, listed, traces, whole
from solvers.run.outputs import SLICES, write_volume
from solvers.run.record import Outcome, scores
from solvers.run.results import Results
from solvers.run.scans import Scan

Record = dict[str, Any]
MANY = 10_000  # records that are held until the file of them is written anew


def reassemble(
    results: Results,
    members: Mapping[str, Sequence[str]],
    load: Callable[[str], Scan | None],
    keep: bool = False,
) -> list[str]:
    """Write every volume whose slices are all restored; those that wait for more slices are left alone.

    members: the ids of each volume's slices, in order. load: reads a scan again, by its id; None if there is none any more.
    keep: leave the slices where they are. Returns one line for each volume that could not be put together.
    """
    apart, changed = [], dict[str, Record]()
    for name, slices in complete(results, members):
        bad = [record["image_id"] for record in slices if record["status"] != "ok"]
        if all(map(whole, slices)):
            continue
        try:
            if bad:
                raise Refusal(
                    f"{name}: {bad[0]} failed" + f", and {len(bad) - 1} more" * (len(bad) > 1)
                )
            scans = [load(record["image_id"]) for record in slices]
            if all(scan and scan.source for scan in scans):
                found = [scan for scan in scans if scan]
                changed |= _assemble(results, name, slices, found, keep)
        except Unwritable:
            raise
        except Refusal as error:
            apart.append(f"a volume is not put together, its slices are in {SLICES}/: {error}")
        if len(changed) >= MANY:
            results.replace(changed)
            changed.clear()
    if changed:
        results.replace(changed)
    if not keep:
        _clear(results)
    return apart


def complete(
    results: Results, members: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, list[Record]]]:
    """The volumes whose slices all have a record, with those, one volume at a time: there may be a million records.

    Meanwhile another file may take the place of the one that is read.
    """
    path = results.folder / RECORDS
    if not members or not path.exists():
        return
    with path.open("rb") as file:
        found = listed(path)
        numbers = found.find(one for ids in members.values() for one in ids)
        begin = 0
        for name, ids in members.items():
            own, begin = numbers[begin : begin + len(ids)], begin + len(ids)
            if (own >= 0).all():
                yield name, [json.loads(line) for line in found.at(own, file)]


def _assemble(
    results: Results, name: str, slices: Sequence[Record], scans: Sequence[Scan], keep: bool
) -> dict[str, Record]:
    """One volume's files are written; the records that name them instead of the slices'."""
    outcome = stacked(results.folder, name, slices, scans)
    names, written = write_volume(outcome, results.folder, results.origin)
    known = traces(results.folder, written)
    changed = {}
    for k, record in enumerate(slices):
        files = {kind: _own(results.folder, file, k) for kind, file in names.items()}
        own = {file: trace for file, trace in known.items() if k == 0 or file in files.values()}
        if keep:
            files |= {"slice": record["files"]["recon"]}
            files |= {"panels": record["files"]["panels"]} if "panels" in record["files"] else {}
            own |= record["written"]
        changed[record["image_id"]] = record | {
            "files": files,
            "written": own,
            "of_volume": outcome.record,
        }
    return changed


def stacked(folder: Path, name: str, slices: Sequence[Record], scans: Sequence[Scan]) -> Outcome:
    """The volume that restored slices make, read back from their files."""
    first = scans[0]
    assert first.intensity is not None
    scan = replace(first, image_id=name, slices=tuple(scans), pixels=None)
    image = _volume(folder, slices, scans, "recon")
    truth = None
    if (
        "psnr" in slices[0]
        and len({scan.pixels.shape for scan in scans if scan.pixels is not None}) == 1
    ):
        truth = torch.stack([scan.pixels for scan in scans if scan.pixels is not None], 1)
    record: Record = {"volume": name, "slices": len(slices)}
    record |= {"grid": slices[0]["grid"]} if "grid" in slices[0] else {}
    record |= scores(image, truth, None, None, False) if truth is not None else {}
    draws = [file for file in _numbered(slices[0], "samples")]
    return Outcome(
        scan,
        record,
        image,
        torch.stack([_volume(folder, slices, scans, "samples", k) for k in range(len(draws))])
        if draws
        else None,
        truth,
        _arrays(folder, slices, "measurement"),
        operator={
            key: made
            for key in _keys(slices[0])
            if (made := _arrays(folder, slices, "operator", f"-{key}")) is not None
        },
        deviation=_spread(folder, slices, scans),
    )


def _volume(
    folder: Path, slices: Sequence[Record], scans: Sequence[Scan], kind: str, k: int = 0
) -> Tensor:
    """[C,D,H,W] in the model range."""
    planes = []
    for record, scan in zip(slices, scans):
        assert scan.source is not None and scan.intensity is not None
        file = _numbered(record, kind)[k] if kind == "samples" else record["files"][kind]
        written = formats.read(folder / file, 0, scan.source.meta.axis)
        planes.append(scan.intensity.to_model(formats.upright(written).pixels, clamp=False))
    if len({plane.shape for plane in planes}) > 1:
        raise Refusal("slices of different sizes make no volume")
    return torch.stack(planes, 1)


def _spread(folder: Path, slices: Sequence[Record], scans: Sequence[Scan]) -> Tensor | None:
    """The standard deviations of the draws, [C,D,H,W] in the model range."""
    if "std" not in slices[0]["files"]:
        return None
    planes = []
    for record, scan in zip(slices, scans):
        assert scan.source is not None and scan.intensity is not None
        lying = replace(scan.source.meta, turn=(False, False, False))
        values = torch.from_numpy(np.load(folder / record["files"]["std"]))
        planes.append(
            formats.upright(formats.Image(values, lying)).pixels / scan.intensity.per_unit
        )
    return torch.stack(planes, 1)


def _arrays(folder: Path, slices: Sequence[Record], kind: str, ending: str = "") -> Tensor | None:
    """The arrays of all slices, along an axis behind their first; None where there are none, or of several shapes."""
    names = [
        next(
            (f for f in record["written"] if f.startswith(f"{SLICES}/{kind}/") and ending in f), ""
        )
        for record in slices
    ]
    if not all(names):
        return None
    held = [torch.from_numpy(np.load(folder / name)) for name in names]
    return torch.stack(held, 1) if len({one.shape for one in held}) == 1 else None


def _keys(record: Record) -> list[str]:
    """The names of an operator's tensors."""
    names = [
        Path(file).stem for file in record["written"] if file.startswith(f"{SLICES}/operator/")
    ]
    return [name.rpartition("-")[2] for name in names]


def _numbered(record: Record, kind: str) -> list[str]:
    return [file for file in record["written"] if file.startswith(f"{SLICES}/{kind}/")]


def _own(folder: Path, file: str, k: int) -> str:
    """Of a series, the file of its slice number k."""
    return f"{file}/{k + 1:04d}.dcm" if (folder / file).is_dir() else file


def _clear(results: Results) -> None:
    """Remove slices that no record names: those of volumes that are put together."""
    top = results.folder / SLICES
    if not top.is_dir():
        return
    named = {
        file
        for record in results.records()
        for file in record.get("written", {})
        if file.startswith(f"{SLICES}/")
    }
    for path in sorted(top.rglob("*"), reverse=True):
        if path.is_file() and path.relative_to(results.folder).as_posix() not in named:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    if not any(top.iterdir()):
        top.rmdir()
