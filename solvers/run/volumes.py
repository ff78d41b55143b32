"""Restored slices put back together into the volume, multi-frame file or DICOM series that they were read from."""

import shutil
from collections.abc import Callable, Sequence
from typing import Any

from data import formats
from data.files import Refusal, Unwritable
from solvers.run.outputs import meta_of_result
from solvers.run.results import Results
from solvers.run.scans import Scan

Record = dict[str, Any]


def reassemble(results: Results, load: Callable[[str], Scan | None]) -> list[str]:
    """Write every volume whose slices are all restored, beside them in recon/; incomplete ones are left alone.

    load: reads a scan again, by its id, for what its file says about itself; None if there is none any more. Returns one
    line for each volume that could not be put together though its slices are there.
    """
    volumes: dict[str, list[Record]] = {}
    failed = {_folder_of(record) for record in results.records() if record["status"] != "ok"}
    for record in results.records():
        if "volume" in record:
            volumes.setdefault(record["volume"], []).append(record)
    apart = []
    for volume, slices in volumes.items():
        scans = [load(record["image_id"]) for record in slices]
        sources = [scan.source for scan in scans if scan and scan.source]
        if len(sources) < max(2, len(slices)) or len(sources) < sources[0].meta.count:  # a file is gone, or a slice is to come
            continue
        series = sources[0].meta.count == 1  # a folder of files, whose number no file tells
        name = f"volume-{volume}{'' if series else formats.suffix(sources[0].meta)}"
        try:
            if series and any(_folder_of(record) in failed for record in slices):
                raise Refusal(f"{name}: an image of its folder failed, which may be one of its slices")
            _assemble(results, name, slices, sources)
        except Unwritable:
            raise
        except Refusal as error:
            apart.append(f"a volume is not put together, its slices are in recon/: {error}")
    return apart


def _assemble(results: Results, name: str, slices: Sequence[Record], sources: Sequence[formats.Image]) -> None:
    restored = []
    for record, source in zip(slices, sources):
        written = formats.read(results.folder / record["files"]["recon"], 0, source.meta.axis)
        pixels = formats.upright(written).pixels  # turned as the source was
        restored.append(formats.Image(pixels, meta_of_result(source, pixels, record)))
    path = results.folder / "recon" / name
    if path.is_dir():  # a series is a folder, which appears whole or not at all
        shutil.rmtree(path)
    formats.reassemble(restored, path, image_ids=[record["image_id"] for record in slices], **results.origin)


def _folder_of(record: Record) -> str:
    """The folder that an image's id was made from."""
    return record["image_id"].rpartition("__")[0]
