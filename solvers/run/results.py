"""A folder of results: one file per image, one JSON line per image, and the line is the commit.

Every file is written under another name, synced and renamed, and the line comes last; so a run may be killed at any
moment, and a restart with the same configuration goes on where the last line ends.
"""

import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import yaml

from data import files as disk
from data.bounded_yaml import read_yaml
from data.files import Refusal, append, commit, commit_json, locked, unwritable
from solvers import metrics
from solvers.run.committed import (
    RECORDS,
    REJECTED,
    in_order,
    listed,
    records_in,
    standing,
    traces,
)
from solvers.run.cost import peak_memory
from solvers.run.heart import METRICS, forget
from solvers.run.outputs import FOLDERS, file_name, write
from solvers.run.record import COLUMNS, Outcome
from solvers.run.shares import Hold, clear, joined

LOGS = "logs"  # tracebacks, by image
FILES = (RECORDS, REJECTED, "summary.json", "report.html", "config.yaml", METRICS)


def digest(config: Mapping[str, Any]) -> str:
    """16 hex digits of a configuration: what decides whether a folder may be continued."""
    return disk.digest(json.dumps(config, sort_keys=True, default=str))[:16]


class Results:
    """One folder of results, of one configuration.

    config: what must be the same for an earlier run in this folder to be continued; its digest is compared. facts: what is
    only noted beside it, like versions. derivation: how the images were made, for DICOM files. keep_patient: leave the
    patient's data in them.
    """

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        facts: Mapping[str, Any],
        derivation: str = "",
        keep_patient: bool = False,
    ):
        self.folder, self.config, self.facts = folder, config, facts
        self.digest = digest(config)
        self.remarks: list[
            str
        ] = []  # what was found amiss with an earlier run's results, and is restored again
        self.origin: Any = {
            "config": self.digest,
            "derivation": derivation,
            "keep_patient": keep_patient,
        }  # DICOM files tell it

    @contextmanager
    def opened(
        self,
        overwrite: bool = False,
        rows: Mapping[str, Any] = MappingProxyType({}),
        verify: bool = False,
        join: bool = False,
    ) -> Iterator[Hold | None]:
        """Keep every other run out of the folder, which is new or holds results of the same configuration (else Refusal).

        rows: image id -> its row of the manifest now. What was restored from another file, slice or window, or has lost a file
        (verify: or holds one that has changed), is restored again. join: other processes may work in the
        folder too.
        """
        prepare = partial(self._take_up, overwrite, rows, verify)
        if join:
            with joined(self.folder, prepare, self._same) as hold:
                yield hold
            return
        with locked(self.folder, "wait for it, or choose another --save-dir"):
            prepare()
            yield None

    def _same(self) -> None:
        """Raise Refusal unless the folder holds results of this configuration."""
        old = _digest_in(self.folder / "config.yaml")
        if old != self.digest:
            raise Refusal(
                f"{self.folder}: holds results of another configuration ({old}, this one is {self.digest});"
                " choose another --save-dir, or replace them with --overwrite"
            )

    def _take_up(self, overwrite: bool, rows: Mapping[str, Any], verify: bool) -> None:
        """Refuse what is another configuration's, and keep the records of images that need not be restored again."""
        config, records = self.folder / "config.yaml", self.folder / RECORDS
        if overwrite:
            self._clear(ours=_digest_in(config) is not None or records.exists())
        if config.exists():
            self._same()
        elif records.exists():
            raise Refusal(
                f"{self.folder}: holds records.jsonl but no config.yaml; choose another --save-dir or --overwrite"
            )
        content = {"digest": self.digest, **self.config, **self.facts}
        commit(config, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
        found = standing(self.folder, rows, verify)
        again = (f"{name}: {why}; it is restored again" for name, why in found.again.items())
        self.remarks = [*(said for _, said in found.rejected), *again]
        for line, _ in found.rejected:
            append(self.folder / REJECTED, line)
        try:
            found.keep()
        except OSError as error:
            raise unwritable(records, error) from error
        clear(self.folder)
        forget(self.folder)

    def records(self) -> Iterator[dict[str, Any]]:
        """One per image, in the order they were committed; a line cut short by a crash is not a commit."""
        yield from records_in(self.folder / RECORDS)

    def concluded(self, over: Sequence[Path] = ()) -> bool:
        """Whether somebody has summarised what is recorded by now, to the last page. over: pages of several folders."""
        own = (self.folder / name for name in (RECORDS, "summary.json", "report.html"))
        try:
            records, *pages = (path.stat().st_mtime_ns for path in (*own, *over))
        except FileNotFoundError:
            return False
        return min(pages) >= records

    def order(self, ids: Iterable[str]) -> None:
        """Put the records in the order of the ids, as one process alone would have written them; others follow."""
        in_order(self.folder / RECORDS, ids)

    def committed(self, ids: Iterable[str]) -> np.ndarray:
        """Whether each of these images has a record."""
        return listed(self.folder / RECORDS).find(ids) >= 0

    def commit(self, outcome: Outcome) -> None:
        """Write the files of one image, then its line. Failed images get the line alone, and in logs/ the traceback of a bug."""
        record, log = dict(outcome.record), self.log(outcome.image_id)
        if outcome.trace:
            log.parent.mkdir(exist_ok=True)
            commit(log, outcome.trace)
        else:
            log.unlink(missing_ok=True)  # of an earlier try
        if outcome.image is not None:
            record["files"], names = write(outcome, self.folder, self.origin)
            record |= {"written": traces(self.folder, names), "config": self.digest}
            slice_of = outcome.scan.volume if not outcome.scan.slices else ""
            record |= {"volume": slice_of} if slice_of else {}
        append(self.folder / RECORDS, _line(record))

    def log(self, image_id: str) -> Path:
        """The traceback of the bug that an image met, if it did."""
        return self.folder / LOGS / f"{file_name(image_id)}.txt"

    def replace(self, changed: Mapping[str, Mapping[str, Any]]) -> None:
        """Put these records, by image, in the place of those that the images had; all of them or none."""
        path = self.folder / RECORDS
        try:
            with disk.replacing(path) as new:
                for record in self.records():
                    new.write(_line(changed.get(record["image_id"], record)))
        except OSError as error:
            raise unwritable(path, error) from error

    def summarise(self) -> dict[str, Any]:
        """summary.json: mean, 95 % interval and n of every number in the records, and who failed."""
        columns = {key: metrics.Column() for key in COLUMNS}
        summary: dict[str, Any] = {"images": 0, "failed": []}
        volumes: dict[str, dict[str, Any]] = {}
        for record in self.records():
            if record["status"] != "ok":
                summary["failed"].append(record["image_id"])
                continue
            summary["images"] += 1
            if of := record.get("of_volume"):
                volumes[of["volume"]] = of
            for key in COLUMNS:
                if record.get(key) is not None:
                    columns[key].add(record[key])
        summary |= {key: column.described() for key, column in columns.items() if column.n}
        summary |= {"volumes": list(volumes.values())} if volumes else {}
        summary["seconds_per_image"] = summary["seconds"]["mean"] if "seconds" in summary else None
        summary["peak_memory_mb"] = round(peak_memory() / 2**20)
        commit_json(self.folder / "summary.json", summary)
        return summary

    def failures(self) -> list[str]:
        """id and reason of every image that failed, and where the traceback of a bug is."""
        said = []
        for record in self.records():
            if (status := record["status"]) != "ok":
                log = self.log(record["image_id"])
                more = f"; traceback: {log}" if log.exists() else ""
                said.append(f"{record['image_id']}: {status.removeprefix('failed: ')}{more}")
        return said

    def _clear(self, ours: bool) -> None:
        """Remove an earlier run's results; what carries their names but was not written here is a Refusal."""
        there = [name for name in (*FOLDERS, *FILES) if (self.folder / name).exists()]
        if there and not ours:
            what = f"its {', '.join(there)} was not written by sample.py"
            raise Refusal(f"{self.folder}: {what}; choose another --save-dir")
        for name in FOLDERS:
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for path in (*map(self.folder.joinpath, FILES), *(self.folder / LOGS).glob("*.txt")):
            path.unlink(missing_ok=True)


def _digest_in(config: Path) -> Any:
    """The digest that a config.yaml of ours holds; None: there is none, or it is another program's."""
    try:
        content = read_yaml(config.read_text(), config)
    except (OSError, UnicodeDecodeError, Refusal):
        return None
    return content.get("digest") if isinstance(content, dict) else None


def _line(record: Mapping[str, Any]) -> bytes:
    """A record as it stands in records.jsonl; JSON has no word for infinity, so null stands there."""
    plain = {
        k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()
    }
    return json.dumps(plain, allow_nan=False).encode() + b"\n"
