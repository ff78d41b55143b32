"""A result as HTML: below the cell of a notebook and on the web page."""

import html
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from data.pictures import channels
from solvers import metrics
from solvers.run.figures import compare, picture, size, uri
from solvers.run.panels import before
from solvers.run.plots import curves
from solvers.run.record import Outcome, meaning

Window = tuple[float, float]  # what is black and white, in the image's own units


def whole(outcome: Outcome, window: Window | None = None) -> str:
    """Measured and restored under one slider, the spread, the draws one by one, and what the numbers mean.

    window: by default the two ends of the image's intensity contract.
    """
    assert outcome.image is not None and outcome.scan.intensity is not None
    ends = window or (outcome.scan.intensity.low, outcome.scan.intensity.high)
    style, record = size(outcome.image.shape), outcome.record

    def address(model: Tensor) -> str:
        return uri(picture(stored(outcome, model), *ends))

    after, first = address(outcome.image), before(outcome)
    if first is None:
        parts = [f"<img class=pic style='{style}' src='{after}' alt=restored>"]
    else:
        parts = [compare(address(first), after, ("measured", "restored"), style)]
    if outcome.draws is not None and outcome.spread is not None:
        std = channels(outcome.spread * outcome.scan.intensity.per_unit).numpy()
        map_, most = uri(picture(std, 0, float(std.max()))), f"{std.max():.3g}"
        parts.append(
            f"<img id=std class=pic style='{style}' src='{map_}' alt=std>std of the draws, white is {most}"
        )
        parts.append(turned([address(draw) for draw in outcome.draws], style))
    shown = "".join(f"<figure>{part}</figure>" for part in parts)
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
    if outcome.draws is not None and outcome.spread is not None:
        mean, half = outcome.image, metrics.half_width(outcome.draws)
        band = (across, along(outcome, mean - half, row), along(outcome, mean + half, row))
    said = "the band is the 90 % interval of the draws"
    if not band:
        single = outcome.draws is None
        said = "several draws would give it a 90 % band" if single else "the draws are alike"
    return f"<figure>row {row}: {said}{curves(lines, 'pixel', 'value', band)}</figure>"


def turned(pictures: Sequence[str], style: str) -> str:
    """Pictures (addresses), one at a time, and a slider through them."""
    images = "".join(
        f"<img class=pic style='{style}' src='{p}' alt='draw {i + 1}'{' hidden' * (i > 0)}>"
        for i, p in enumerate(pictures)
    )
    turn = "[...this.previousSibling.children].forEach((one, i) => one.hidden = i != this.value)"
    slider = f'<input id=draw type=range min=0 max={len(pictures) - 1} value=0 aria-label=draw oninput="{turn}">'
    return f"<div class=draws>{images}</div>{slider} draws, one by one"


def stored(outcome: Outcome, model: Tensor) -> np.ndarray:
    """[1,H,W] or [3,H,W] in the image's own units; complex ones as their magnitude."""
    assert outcome.scan.intensity is not None
    return channels(outcome.scan.intensity.to_stored(model.float())).numpy()


def along(outcome: Outcome, model: Tensor, row: int) -> list[float]:
    return [float(value) for value in stored(outcome, model)[0, row]]
