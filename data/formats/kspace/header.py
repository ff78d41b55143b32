"""The ISMRMRD header, an XML text that fastMRI keeps too: matrices, fields of view, and where the middle of k-space was."""

import math
from typing import NamedTuple
from xml.etree import ElementTree

from data.files import Refusal
from data.formats import bounds

NAMESPACE = "{http://www.ismrm.org/ISMRMRD}"
TRIPLE = ("x", "y", "z")


class Limits(NamedTuple):
    """Of a counter of k-space lines: the first, the last, and the one through the middle."""

    minimum: int
    maximum: int
    centre: int


class Header(NamedTuple):
    """encoded: what k-space spans; pictured: what the scanner shows. Matrix (x, y, z) and field of view in mm."""

    encoded: tuple[int, int, int]
    encoded_mm: tuple[float, float, float]
    pictured: tuple[int, int, int]
    pictured_mm: tuple[float, float, float]
    lines: Limits | None
    trajectory: str
    noise_bandwidth: float = 1.0  # of a noise scan, relative to the bandwidth that it names

    def kept(self, rows: int, columns: int) -> tuple[int, int]:
        """Rows and columns of the picture in the middle of k-space's own field of view, at its own resolution."""
        shares = [
            p / e if e > 0 and p > 0 else 1.0 for p, e in zip(self.pictured_mm, self.encoded_mm)
        ]
        return min(rows, round(rows * shares[0])), min(columns, round(columns * shares[1]))

    def spacing(self, rows: int, columns: int) -> tuple[float, float] | None:
        x, y, _ = self.encoded_mm
        return (x / rows, y / columns) if x > 0 and y > 0 else None


def parse(text: bytes | str, where: str) -> Header:
    """Raises Refusal for what is no such header, and for one that defines entities (which can grow without bound)."""
    text = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    if not isinstance(text, str):
        raise Refusal(f"{where}: its header is no text; an ISMRMRD header is allowed")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise Refusal(f"{where}: its header defines entities; a plain ISMRMRD header is allowed")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise Refusal(
            f"{where}: its header is no XML ({error}); an ISMRMRD header is allowed"
        ) from None
    encoding = root.find(f"{NAMESPACE}encoding")
    if encoding is None:
        raise Refusal(f"{where}: its header has no encoding; an ISMRMRD header is allowed")
    encoded, encoded_mm = _space(encoding, "encodedSpace", where)
    pictured, pictured_mm = _space(encoding, "reconSpace", where)
    lines = _limits(encoding, where)
    trajectory = _text(encoding, "trajectory") or "cartesian"
    ratio = "acquisitionSystemInformation/relativeReceiverNoiseBandwidth"
    bandwidth = _number(root, ratio, where) if _text(root, ratio) else 1.0
    noise = bandwidth if bandwidth > 0 else 1.0
    return Header(encoded, encoded_mm, pictured, pictured_mm, lines, trajectory, noise)


def _space(encoding: ElementTree.Element, name: str, where: str) -> tuple:
    matrix = [_number(encoding, f"{name}/matrixSize/{axis}", where) for axis in TRIPLE]
    field = [_number(encoding, f"{name}/fieldOfView_mm/{axis}", where) for axis in TRIPLE]
    if min(matrix) < 1:
        raise Refusal(
            f"{where}: its header has a matrix {matrix} of {name}; at least 1 each is allowed"
        )
    if min(field) < 0:
        raise Refusal(
            f"{where}: its header has a field of view {field} of {name}; mm, or 0 where it is not known, are allowed"
        )
    bounds.check(where, [int(n) for n in matrix[:2]], 1, 8)
    return tuple(int(n) for n in matrix), tuple(field)


def _limits(encoding: ElementTree.Element, where: str) -> Limits | None:
    place = "encodingLimits/kspace_encoding_step_1"
    if encoding.find(_path(place)) is None:
        return None
    return Limits(
        *(
            int(_number(encoding, f"{place}/{name}", where))
            for name in ("minimum", "maximum", "center")
        )
    )


def _number(element: ElementTree.Element, path: str, where: str) -> float:
    text = _text(element, path)
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise Refusal(
            f"{where}: its header has no finite number at {path}; an ISMRMRD header is allowed"
        )
    return value


def _text(element: ElementTree.Element, path: str) -> str:
    found = element.find(_path(path))
    return "" if found is None or found.text is None else found.text.strip()


def _path(path: str) -> str:
    return "/".join(f"{NAMESPACE}{name}" for name in path.split("/"))
