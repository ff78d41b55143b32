"""Volumes in a report: three planes through the slice that came out worst."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data import formats
from data.pictures import channels
from solvers.run.figures import picture, uri

MOST = 6  # volumes on a page
FEWEST = 3  # slices of which other planes are worth looking at
Record = Mapping[str, Any]


class Volumes:
    """The first few restored volumes of a folder; of their slices' records only what is needed is kept."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.slices: dict[str, list[Record]] = {}

    def add(self, record: Record) -> None:
        name, file = record.get("volume"), record.get("files", {}).get("recon")
        if name and file and (name in self.slices or len(self.slices) < MOST):
            kept = {key: record.get(key) for key in ("image_id", "psnr", "residual")}
            self.slices.setdefault(name, []).append({**kept, "file": file})

    def shown(self) -> list[str]:
        """For each its worst slice, and across it the two planes through its middle, as HTML."""
        there = [s for s in self.slices.values() if len(s) >= FEWEST and (self.folder / s[0]["file"]).is_file()]
        return ["<h2>Volumes</h2>", *(_planes(self.folder, slices) for slices in there)] if there else []


def _planes(folder: Path, slices: Sequence[Record]) -> str:
    bad, said = _worst(slices)
    axial = _slice(folder, slices[bad])
    h, w = axial.shape
    rows = np.stack([_slice(folder, record)[[h // 2]] for record in slices])[:, 0]  # one slice is held at a time
    columns = np.stack([_slice(folder, record)[:, [w // 2]] for record in slices])[..., 0]
    thick = max(1, min(h, w) // (2 * len(slices)))  # of a slice on the page, so that few are seen too
    rows, columns = np.repeat(rows, thick, 0), np.repeat(columns, thick, 0)
    low, high = float(min(p.min() for p in (axial, rows, columns))), float(max(p.max() for p in (axial, rows, columns)))
    high = high if high > low else low + 1
    shown = [(f"slice {bad}, the worst: {said}", axial), (f"row {h // 2} of all slices, not to scale", rows)]
    shown.append((f"column {w // 2} of all slices, not to scale", columns))
    looks = [f"<div><small>{t}</small><img class=pic src='{uri(picture(p[None], low, high))}' alt='{t}'></div>" for t, p in shown]
    name = html.escape(slices[bad]["image_id"])
    return f"<figure class=volume><figcaption>{name} <span class=note>{len(slices)} slices</span></figcaption>" \
           f"<div class=looks>{''.join(looks)}</div></figure>"  # fmt: skip


def _worst(slices: Sequence[Record]) -> tuple[int, str]:
    """The slice of least PSNR, without a truth of largest residual."""
    if all(record.get("psnr") is not None for record in slices):
        found = min(range(len(slices)), key=lambda i: slices[i]["psnr"])
        return found, f"{slices[found]['psnr']:.2f} dB"
    found = max(range(len(slices)), key=lambda i: slices[i].get("residual") or 0)
    return found, f"residual {slices[found].get('residual') or 0:.3f}"


def _slice(folder: Path, record: Record) -> np.ndarray:
    """[H,W] of a restored slice."""
    image = formats.upright(formats.read(folder / record["file"], 0))
    return channels(image.pixels)[0].numpy()
