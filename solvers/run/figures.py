"""Figures for pages that need nothing else: pictures as data, a slider between two.

Colours follow the page's: text is `currentColor`, so the same figure is read on light, on dark and on paper.
"""

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
import PIL.Image

from data.pictures import MISSING
from solvers.run.plots import PLOT

STYLE = (
    PLOT
    + """
.compare { position: relative; display: inline-block; max-width: 100%; line-height: 0 }
.compare img { display: block; width: 100%; height: 100%; margin: 0; border: 0 } .draws img[hidden] { display: none }
.compare .over { position: absolute; inset: 0; clip-path: inset(0 calc(100% - var(--at)) 0 0) }
.compare i { position: absolute; top: 0; bottom: 0; left: calc(var(--at) - 1px); width: 2px; background: #f59a23 }
.compare input { position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0; cursor: ew-resize }
.compare:has(input:focus-visible) { outline: 2px solid #f59a23; outline-offset: 2px }
.compare span { position: absolute; top: 6px; font: 12px/1.3 system-ui, sans-serif; padding: 1px 6px; pointer-events: none }
.compare span { color: #fff; background: #000a; border-radius: 3px } .compare .l { left: 2% } .compare .r { right: 2% }
.compare span { box-sizing: border-box; max-width: 47%; overflow: hidden; white-space: nowrap; text-overflow: ellipsis }
.figures { display: flex; flex-wrap: wrap; gap: 16px; align-items: flex-start }
.figures figure { margin: 0; flex: 1 1 320px; max-width: 512px } .figures .compare, .pic { display: block; width: 100% }
.legend { font-size: 12px } .legend span { white-space: nowrap }
@media print { * { print-color-adjust: exact; -webkit-print-color-adjust: exact } }
"""
)


def picture(values: np.ndarray, low: float, high: float) -> PIL.Image.Image:
    """An image [1,H,W] or [3,H,W] with `low` as black and `high` as white; NaN has a colour of its own."""
    planes = np.broadcast_to(values, (3, *values.shape[-2:]))
    unit = np.clip((planes - low) / (high - low), 0, 1)
    missing = np.isnan(planes).any(0)
    pixels = (np.nan_to_num(unit) * 255).round().astype(np.uint8).transpose(1, 2, 0)
    pixels[missing] = MISSING
    return PIL.Image.fromarray(
        pixels if len(values) == 3 or missing.any() else np.ascontiguousarray(pixels[..., 0])
    )


def uri(image: PIL.Image.Image) -> str:
    """A picture as the address of itself."""
    out = io.BytesIO()
    image.save(out, "PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


def size(shape: Sequence[int]) -> str:
    """The style of a picture [...,H,W]: at most 512 pixels wide and 640 high. A very long one is
    stretched to a quarter of its length, as in panels, or nobody would see it."""
    ratio = min(max(shape[-1] / shape[-2], 0.25), 4)
    return f"aspect-ratio:{ratio:.4g};max-width:{min(512, 640 * ratio):.0f}px"


def compare(left: str, right: str, words: tuple[str, str], style: str = "") -> str:
    """Two pictures in one place (addresses), the left one seen up to a line that a pointer or the arrow keys move."""
    a, b = map(html.escape, words)
    over = f"<img class=over src='{left}' alt='{a}'>"
    return sliding(over, f"<img src='{right}' alt='{b}'>", words, style)


def sliding(left: str, right: str, words: tuple[str, str], style: str = "") -> str:
    """`compare` of two elements of one size; the left one has the class "over"."""
    move = "this.parentNode.style.setProperty('--at',this.value+'%')"
    a, b = map(html.escape, words)
    line = f"<i></i><span class=l>{a}</span><span class=r>{b}</span>"
    slider = f'<input type=range min=0 max=100 value=50 aria-label="{a} to {b}" oninput="{move}">'
    return f"<div class=compare style='--at:50%;{style}'>{right}{left}{line}{slider}</div>"
