"""A file is either wholly there or not at all: temporary name, sync, rename."""

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from data.files import Refusal


def commit(path: str | Path, data: bytes) -> None:
    """Write `data` to `path`; on failure `path` is as it was before. Raises ValueError with one line (full disk, no rights)."""
    path = Path(path)
    temporary = path.with_name(f".{path.name[:200]}.{os.getpid()}.tmp")
    try:
        _write(temporary, data)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise Refusal(f"{path}: cannot be written ({error.strerror or error}); a writable folder is allowed") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def commit_folder(path: str | Path, files: Mapping[str, bytes]) -> None:
    """Write a new folder of files, all or none. The folder must not exist or be empty."""
    path = Path(path)
    temporary = path.with_name(f".{path.name[:200]}.{os.getpid()}.tmp")
    try:
        temporary.mkdir()
        for name, data in files.items():
            _write(temporary / name, data)
        _sync_folder(temporary)
        os.replace(temporary, path)  # an empty folder is replaced, a full one is an error
        _sync_folder(path.parent)
    except OSError as error:
        raise Refusal(f"{path}: cannot be written ({error.strerror or error}); a new or empty folder is allowed") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    """The rename itself must survive a power cut too."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
