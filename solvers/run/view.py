"""A result as HTML: below the cell of a notebook and on the web page."""

import html
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from data.pictures import channels
from solvers import metrics
from solvers.run.figures import compare, picture, uri
from solvers.run.panels import before
from solvers.run.plots import curves
from solvers.run.record import Outcome, meaning

Window = tuple[float, float]  # what is black and white, in the image's own units


def whole(outcome: Outcome, window: Window | None = None) -> str:
    """Measured and restored under one slider, the spread, the draws one by one, and what the numbers mean.

    window: by default the two ends of the image's intensity contract.
    """
    assert outcome.image is not None and outcome.scan.intensity is not None
    low, high = window or (outcome.scan.intensity.low, outcome.scan.intensity.high)
    after, first = uri(picture(stored(outcome, outcome.image), low, high)), before(outcome)
    parts = [f"<img class=pic src='{after}' alt=restored>"]
    if first is not None:
        parts = [
            compare(
                uri(picture(stored(outcome, first), low, high)), after, ("measured", "restored")
            )
        ]
    if outcome.std is not None and outcome.draws is not None:
        std = channels(outcome.std * outcome.scan.intensity.per_unit).numpy()
        most = float(std.max()) or 1.0
        parts.append(
            f"std of the draws, white is {most:.3g}<img id=std class=pic src='{uri(picture(std, 0, most))}' alt=std>"
        )
        parts.append(
            turned([uri(picture(stored(outcome, draw), low, high)) for draw in outcome.draws])
        )
    shown, record = "".join(f"<figure>{part}</figure>" for part in parts), outcome.record
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in record.get("notes", []))
    words = (
        f"{html.escape(meaning(record))} {record['seconds']:.1f} s, {record['nfe']} network calls."
    )
    return f"<p id=words role=status>{words}</p><div class=figures>{shown}</div><ul>{notes}</ul>"


def profile(outcome: Outcome, row: int) -> str:
    """The values along one row, with the 90 % band of the draws and with the truth where there is one."""
    assert outcome.image is not None
    across, band = list(range(outcome.image.shape[-1])), None
    lines = {"restored": (across, along(outcome, outcome.image, row))}
    if outcome.truth is not None:
        lines["truth"] = (across, along(outcome, outcome.truth, row))
    if outcome.draws is not None:
        mean, _, half = metrics.interval(outcome.draws)
        band = (across, along(outcome, mean - half, row), along(outcome, mean + half, row))
    said = (
        "the band is the 90 % interval of the draws"
        if band
        else "several draws would give it a 90 % band"
    )
    return f"<figure>row {row}: {said}{curves(lines, 'pixel', 'value', band)}</figure>"


def turned(pictures: Sequence[str]) -> str:
    """Pictures (addresses), one at a time, and a slider through them."""
    images = "".join(
        f"<img class=pic src='{p}' alt='draw {i + 1}'{' hidden' * (i > 0)}>"
        for i, p in enumerate(pictures)
    )
    turn = "[...this.nextSibling.children].forEach((one, i) => one.hidden = i != this.value)"
    slider = f'<input id=draw type=range min=0 max={len(pictures) - 1} value=0 aria-label=draw oninput="{turn}">'
    return f"draws, one by one {slider}<div class=draws>{images}</div>"


def stored(outcome: Outcome, model: Tensor) -> np.ndarray:
    """[1,H,W] or [3,H,W] in the image's own units; complex ones as their magnitude."""
    assert outcome.scan.intensity is not None
    return channels(outcome.scan.intensity.to_stored(model.float())).numpy()


def along(outcome: Outcome, model: Tensor, row: int) -> list[float]:
    return [float(value) for value in stored(outcome, model)[0, row]]
