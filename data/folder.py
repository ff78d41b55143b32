"""What is found in a user's folder: which files are images by their name, and which are passed over."""

import os
from pathlib import Path

from data import formats


def walk(folder: str | Path, unreadable: list[tuple[str, str]] | None = None) -> list[Path]:
    """Every file below, sorted; hidden ones are passed over. Links to folders are followed, but no folder is entered twice.

    unreadable: filled with folders that may not be looked into, and why.
    """
    entered = {os.path.realpath(folder)}

    def refused(error: OSError) -> None:
        if unreadable is not None:
            unreadable.append((str(error.filename), error.strerror or "cannot be listed"))

    def first_time(path: str) -> bool:
        real = os.path.realpath(path)
        return real not in entered and not entered.add(real)  # type: ignore[func-returns-value]

    paths = []
    for top, below, names in os.walk(folder, onerror=refused, followlinks=True):
        below[:] = [
            name
            for name in sorted(below)
            if not name.startswith(".") and first_time(os.path.join(top, name))
        ]
        paths += [Path(top, name) for name in names if not name.startswith(".")]
    return sorted(paths)


def is_image(path: Path) -> bool:
    """By its name; DICOM files are often named by number or UID, or have no suffix at all, and are looked into."""
    if path.suffix and not path.suffix[1:].isdigit():
        return path.name.lower().endswith(tuple(formats.SUFFIXES))
    return is_dicom(path)


def is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False
