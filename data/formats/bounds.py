"""How much a file may unpack to: one rule for all readers.

A file says at its start how large its images are. That claim is looked at before anything else is read: against what so many
bytes can hold, and against the greatest image and volume allowed. What is packed is then unpacked piece by piece and no
further than claimed. So a small file that is made to fill the memory costs one line, not the memory.
"""

import os
import zlib
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Protocol

from data.files import Refusal

IMAGE_BYTES = 2 * 2**30  # of one image, unpacked
VOLUME = 8  # times as much for all images of a file: 16 GiB
IMAGES = 2**20  # in one file: more are a lie or a list without end
DEFLATE = 1032  # deflate cannot pack better (RFC 1951: 258 bytes in two bits)
SURPLUS = 2**20  # bytes that may follow what was claimed: padding, notes of the writing program
PIECE = 2**22
VARIABLE = "PALIMPSEST_MAX_IMAGE_BYTES"  # reaches every worker process, however it is started


class Stream(Protocol):
    """What unpacks as it is read: gzip, bz2 and ZIP members."""

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes more; none at the end."""
        ...


def allow(image_bytes: int) -> None:
    """Set the greatest size of one image in bytes, for this process and those it starts; a volume may have eight times it."""
    if image_bytes < 1:
        raise Refusal(f"max-image-bytes {image_bytes}; a number of bytes from 1 is allowed")
    os.environ[VARIABLE] = str(image_bytes)


def image_bytes() -> int:
    """The greatest size of one image."""
    text = os.environ.get(VARIABLE, str(IMAGE_BYTES))
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise Refusal(f"{VARIABLE}={text[:40]!r}; a number of bytes from 1 is allowed")
    return int(text)


def check(
    path: str | Path,
    image: Sequence[int],
    images: int = 1,
    itemsize: int = 1,
    held: float | None = None,
) -> int:
    """What a file claims: `images` images of `image` numbers each (its shape), of `itemsize` bytes. Returns all bytes together.

    Counted are the numbers as they are stored or as float32, whichever is more. held: bytes that the file can hold at most
    (its size, times what its packing can save). Raises Refusal in one line.
    """
    one, most = prod(map(int, image)), image_bytes()
    if one * max(itemsize, 4) > most:
        raise Refusal(
            f"{path}: an image of {_sides(image)} is more than {most} bytes; --max-image-bytes allows more"
        )
    claim = one * images * itemsize
    if claim > VOLUME * most:
        raise Refusal(f"{path}: {images} images of {_sides(image)} are more than {VOLUME * most} bytes;"
                      " --max-image-bytes allows more (an eighth of it is needed)")  # fmt: skip
    if held is not None and claim > held:
        raise Refusal(f"{path}: promises {claim} bytes ({images} x {_sides(image)}), more than the file can hold;"
                      " an undamaged file is allowed")  # fmt: skip
    return claim


def count(path: str | Path, images: int) -> int:
    """The number of images of a file, unless nobody could go through them."""
    if images > IMAGES:
        raise Refusal(f"{path}: claims {images} images; up to {IMAGES} are allowed")
    return images


def check_volume(
    path: str | Path,
    shape: Sequence[int],
    itemsize: int,
    held: float | None = None,
    components: int = 1,
) -> int:
    """`check` for a volume [X, Y, Z, T] that may be cut along any axis into images of at most its two longest sides."""
    x, y, z, t = (*shape, 1, 1, 1, 1)[:4]
    fewest, *others = sorted((x, y, z))
    check(path, (components, *others), 1, itemsize)
    return check(path, (components, *others), fewest * t, itemsize, held)


def unpack(stream: Stream, claim: int, path: str | Path, start: int = 0) -> bytearray:
    """The first `start` + `claim` bytes of a packed stream, whose end is looked at too: a cut is noticed there.

    Raises Refusal if there are fewer, or many more.
    """
    data, wanted = bytearray(), start + claim
    try:
        while len(data) < wanted and (piece := stream.read(min(PIECE, wanted - len(data)))):
            data += piece
        if len(data) < wanted:
            raise Refusal(f"{path}: promises {claim} bytes after {start}, but unpacks to {len(data)};"
                          " an undamaged file is allowed")  # fmt: skip
        if len(stream.read(SURPLUS + 1)) > SURPLUS:
            raise Refusal(
                f"{path}: unpacks to more than the {claim} bytes it promises; an honest header is allowed"
            )
    except (EOFError, OSError, zlib.error) as error:
        raise Refusal(
            f"{path}: its packed data (gzip or alike) are cut short or damaged: {error}"
        ) from error
    return data


def _sides(shape: Sequence[int]) -> str:
    return " x ".join(str(n) for n in shape)
