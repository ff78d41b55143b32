"""A folder of results: one file per image, one JSON line per image, and the line is the commit.

Every file is written under another name, synced and renamed, and the line comes last; so a run may be killed at any
moment, and a restart with the same configuration goes on where the last line ends.
"""

import fcntl
import hashlib
import io
import json
import math
import os
import re
import resource
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import PIL.Image
import torch
import yaml
from torch import Tensor

from data import formats
from solvers import metrics
from solvers.intake import Scan
from solvers.outcome import Outcome
from solvers.panel import panel

FOLDERS = ("recon", "measurement", "operator", "panels", "samples", "std")
FILES = ("records.jsonl", "summary.json", "report.html", "config.yaml")
NUMBERS = ("psnr", "ssim", "nmse", "psnr_draw", "ssim_draw", "residual", "residual_mean", "baseline_psnr", "coverage", "seconds")


def digest(config: Mapping[str, Any]) -> str:
    """16 hex digits of a configuration: what decides whether a folder may be continued."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()[:16]


def file_name(image_id: str) -> str:
    """The id if it is a safe file name, else its safe part and a digest, so that no two ids share a file."""
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", image_id).lstrip(".")[:120]
    return safe if safe == image_id else f"{safe}-{hashlib.sha256(image_id.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


class Results:
    """folder: where. config: merged configuration, whose digest must agree with what is there. facts: versions and such,
    kept beside it. derivation: how the images were made, for DICOM. keep_patient: leave the patient's data in DICOM files.
    """

    def __init__(
        self, folder: Path, config: Mapping[str, Any], facts: Mapping[str, Any], derivation: str = "", keep_patient: bool = False
    ):
        self.folder, self.config, self.facts = folder, config, facts
        self.digest = digest(config)
        self.changed: list[str] = []  # images that were restored before, from other files than are there now
        self._dicom: Any = {"config": self.digest, "derivation": derivation, "keep_patient": keep_patient}

    @contextmanager
    def opened(self, overwrite: bool = False, files: Mapping[str, str] = MappingProxyType({})) -> Iterator[None]:
        """Hold the folder alone, new or with an earlier run of the same configuration; another's results are a ValueError.

        files: by image id, what images come from now; what was made from a file of other content is made anew.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / ".lock").open("w")
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{self.folder}: another run is writing here; wait for it, or choose another --save-dir") from None
        except OSError as error:
            raise ValueError(f"{self.folder}: cannot be written: {error.strerror}") from None
        with lock:
            self._take_up(overwrite, files)
            yield

    def _take_up(self, overwrite: bool, files: Mapping[str, str]) -> None:
        found = self.folder / "config.yaml"
        if overwrite:
            self._clear(ours=_digest_in(found) is not None or (self.folder / "records.jsonl").exists())
        if found.exists():
            old = _digest_in(found)
            if old != self.digest:
                raise ValueError(
                    f"{self.folder}: holds results of another configuration ({old}, this one is {self.digest});"
                    " choose another --save-dir, or replace them with --overwrite"
                )
        elif (self.folder / "records.jsonl").exists():
            raise ValueError(f"{self.folder}: holds records.jsonl but no config.yaml; choose another --save-dir or --overwrite")
        content = {"digest": self.digest, **self.config, **self.facts}
        formats.commit(found, yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode())
        good = [record for record in self.records() if record["status"] == "ok"]  # failed images are tried again
        known = [r for r in good if r.get("input_sha256") and r["image_id"] in files]
        self.changed = [r["image_id"] for r in known if formats.checksum(files[r["image_id"]]) not in ("", r["input_sha256"])]
        again = set(self.changed)
        done = [json.dumps(record).encode() + b"\n" for record in good if record["image_id"] not in again]
        formats.commit(self.folder / "records.jsonl", b"".join(done))

    def records(self) -> Iterator[dict[str, Any]]:
        """One per image, in the order they were committed; a line cut short by a crash is not a commit."""
        path = self.folder / "records.jsonl"
        if path.exists():
            with path.open("rb") as file:
                yield from (json.loads(line) for line in file if line.endswith(b"\n"))

    def committed(self) -> set[str]:
        return {record["image_id"] for record in self.records()}

    def commit(self, outcome: Outcome) -> None:
        """Write the files of one image, then its line. Failed images get the line alone."""
        record = dict(outcome.record)
        if outcome.image is not None:
            record["files"] = self._write(outcome)
            volume = _volume(outcome.scan)
            record |= {"volume": volume} if volume else {}
        line = json.dumps({k: _plain(v) for k, v in record.items()}, allow_nan=False).encode() + b"\n"
        with (self.folder / "records.jsonl").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # several processes commit to one file
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def summarise(self) -> dict[str, Any]:
        """summary.json: mean, 95 % interval and n of every number in the records, and who failed."""
        columns: dict[str, list[float]] = {key: [] for key in NUMBERS}
        summary: dict[str, Any] = {"images": 0, "failed": []}
        for record in self.records():
            if record["status"] != "ok":
                summary["failed"].append(record["image_id"])
                continue
            summary["images"] += 1
            for key in NUMBERS:
                columns[key] += [float(record[key])] if record.get(key) is not None else []
        summary |= {key: metrics.describe(values) for key, values in columns.items() if values}
        summary["seconds_per_image"] = summary["seconds"]["mean"] if "seconds" in summary else None
        summary["peak_memory_mb"] = round(peak_memory() / 2**20)
        formats.commit(self.folder / "summary.json", (json.dumps(summary, indent=1) + "\n").encode())
        return summary

    def failures(self) -> list[str]:
        """id and reason of every image that failed."""
        return [f"{r['image_id']}: {r['status'].removeprefix('failed: ')}" for r in self.records() if r["status"] != "ok"]

    def reassemble(self, load: Callable[[str], Scan | None]) -> list[str]:
        """Put the restored slices of each volume, multi-frame file or DICOM series back into one; incomplete ones are left alone.

        load: reads a scan again, by its id, for what its file says about itself; None if there is none any more. Returns one
        line for each volume that could not be put together though its slices are there.
        """
        groups: dict[str, list[dict[str, Any]]] = {}
        apart = []
        failed = {_folder_of(record["image_id"]) for record in self.records() if record["status"] != "ok"}
        for record in self.records():
            if "volume" in record:
                groups.setdefault(record["volume"], []).append(record)
        for volume, slices in groups.items():
            scans = [load(record["image_id"]) for record in slices]
            sources = [scan.source for scan in scans if scan and scan.source]
            if len(sources) < max(2, len(slices), sources[0].meta.count if sources else 0):
                continue
            name = f"volume-{volume}{'' if sources[0].meta.count == 1 else formats.suffix(sources[0].meta)}"
            try:
                if sources[0].meta.count == 1 and any(_folder_of(record["image_id"]) in failed for record in slices):
                    raise ValueError(f"{name}: an image of its folder failed, which may be one of its slices")
                self._assemble(name, slices, sources)
            except ValueError as error:
                apart.append(f"a volume is not put together, its slices are in recon/: {error}")
        return apart

    def _assemble(self, name: str, slices: Sequence[dict[str, Any]], sources: Sequence[formats.Image]) -> None:
        restored = []
        for record, source in zip(slices, sources):
            pixels = self._recon(record, source.meta)
            restored.append(formats.Image(pixels, _described(source, pixels)))
        path = self.folder / "recon" / name
        if path.is_dir():  # a series is a folder, which appears whole or not at all
            shutil.rmtree(path)
        formats.reassemble(restored, path, image_ids=[record["image_id"] for record in slices], **self._dicom)

    def _recon(self, record: dict[str, Any], meta: formats.Meta) -> Tensor:
        """The pixels of one written slice, turned as its source was."""
        return formats.upright(formats.read(self.folder / record["files"]["recon"], 0, meta.axis)).pixels

    def _write(self, outcome: Outcome) -> dict[str, str]:
        """All files of one image; their names relative to the folder."""
        assert outcome.image is not None
        name = file_name(outcome.image_id)
        files: dict[str, str] = {}

        def place(kind: str, suffix: str) -> Path:
            files.setdefault(kind, f"{kind}/{name}{suffix}")
            (self.folder / kind).mkdir(exist_ok=True)
            return self.folder / kind / f"{name}{suffix}"

        assert outcome.scan.source is not None
        suffix = formats.suffix(outcome.scan.source.meta)
        self._image(outcome, outcome.image, place(outcome.folder, suffix))
        for k, draw in enumerate(outcome.draws if outcome.draws is not None else []):
            self._image(outcome, draw, place("samples", f"-{k:03d}{suffix}"), k)
        if outcome.std is not None and outcome.scan.intensity is not None:
            std = formats.as_stored(outcome.std * outcome.scan.intensity.per_unit, outcome.scan.source.meta)
            _array(place("std", ".npy"), std)
        if outcome.y is not None:
            unclear = outcome.y.ndim == 3 and len(outcome.y) not in (1, 3)  # would be read as a stack of slices
            _array(place("measurement", ".npy"), outcome.y[None] if unclear else outcome.y)
        for key, tensor in outcome.operator.items():
            _array(place("operator", f"-{key}.npy"), tensor)
        if outcome.truth is not None or outcome.y is not None:
            picture = panel(outcome)
            formats.commit(place("panels", ".png"), _png(picture))
        return files

    def _image(self, outcome: Outcome, image: Tensor, path: Path, sample: int | None = None) -> None:
        """An image in the model range -> a file like its source, in stored units."""
        scan = outcome.scan
        assert scan.source is not None and scan.intensity is not None
        identity = outcome.image_id if sample is None else f"{outcome.image_id}, draw {sample}"
        made = formats.Image(scan.intensity.to_stored(image.float()), _described(scan.source, image))
        formats.write(made, path, image_id=identity, **self._dicom)

    def _clear(self, ours: bool) -> None:
        """Remove an earlier run's results; what carries their names but was not written here is a ValueError."""
        if not ours and (strange := [name for name in (*FOLDERS, *FILES) if (self.folder / name).exists()]):
            raise ValueError(f"{self.folder}: its {', '.join(strange)} was not written by sample.py; choose another --save-dir")
        for name in FOLDERS:
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for name in FILES:
            (self.folder / name).unlink(missing_ok=True)


def _digest_in(config: Path) -> Any:
    """The digest that a config.yaml of ours holds; None: there is none, or it is another program's."""
    try:
        content = yaml.safe_load(config.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return content.get("digest") if isinstance(content, dict) else None


def _described(source: formats.Image, image: Tensor) -> formats.Meta:
    """What the source's file says, of a result: enlarged images get a finer spacing, colours that became gray are gray."""
    meta, factor = formats.with_channels(source.meta, len(image)), image.shape[-1] / source.pixels.shape[-1]
    return meta if factor == 1 else formats.resized(meta, factor)


def _folder_of(image_id: str) -> str:
    """The folder that an id was made from."""
    return image_id.rpartition("__")[0]


def _volume(scan: Scan) -> str:
    """What slices that belong together share; "" for a picture."""
    meta = scan.source.meta if scan.source else None
    together = meta is not None and meta.series and (meta.count > 1 or meta.format == "dicom")
    return meta.series[:16] if together else ""  # type: ignore[union-attr, index]


def peak_memory() -> int:
    """Bytes: of the accelerator if one is in use, else of this process."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _array(path: Path, values: Tensor) -> None:
    out = io.BytesIO()
    np.save(out, values.numpy())
    formats.commit(path, out.getvalue())


def _png(picture: PIL.Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def _plain(value: Any) -> Any:
    """JSON has no word for infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
