"""What the whole program does with files: refusals, hints, atomic writes, locks, digests, JSON lines.

A leaf: it imports nothing of the project.
"""

import difflib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

FULL = (errno.ENOSPC, errno.EDQUOT)
_secrets: set[str] = set()  # what no line of ours may show
_locked: set[Path] = set()  # by this process; a lock of the system's keeps out other processes only


class Refusal(ValueError):
    """What the user can mend: one line that says what, where, and what is allowed. Doors print it and exit with 2.

    Every other exception is a bug and is shown as one.
    """


class Unwritable(Refusal):
    """A file could not be written for want of space, rights or the disk itself: nor will the next one be."""


def unwritable(
    path: Path, error: OSError, size: int = 0, allowed: str = "a writable folder"
) -> Unwritable:
    """What to say of a file that could not be written. size: of its content in bytes, if that is known."""
    if error.errno not in FULL:
        return Unwritable(
            f"{path}: cannot be written ({error.strerror or error}); {allowed} is allowed"
        )
    missing = (
        f", {max(size - shutil.disk_usage(path.parent).free, 1):,} bytes are missing"
        if size
        else ""
    )
    return Unwritable(
        f"{path}: the disk is full{missing} ({error.strerror}); free some, the same command goes on from here"
    )


def nearest(word: str, allowed: Iterable[str], most: int = 40) -> str:
    """'; did you mean X?' with the nearest valid name, else '; allowed: …' with the first `most` of the valid ones."""
    names = sorted(map(str, allowed))
    if close := difflib.get_close_matches(word, names, 1, 0.6):
        return f"; did you mean {close[0]!r}?"
    more = ", …" if len(names) > most else ""
    return f"; allowed: {', '.join(names[:most]) or 'none'}{more}"


@contextmanager
def replacing(path: Path, sync: bool = True) -> Iterator[IO[bytes]]:
    """A stream whose content becomes the file `path` when the block ends: written under another name, synced, renamed.

    If the block raises, `path` is as it was before. sync: False where losing the file in a power cut is no harm.
    """
    part = _part(path)
    try:
        with part.open("wb") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(part, path)
        if sync:
            _sync(path.parent)
    finally:
        with suppress(OSError):
            part.unlink()


def commit(path: str | Path, content: bytes | str) -> None:
    """Write a file wholly or not at all. Raises Refusal (full disk, no rights)."""
    try:
        with replacing(Path(path)) as file:
            file.write(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise unwritable(Path(path), error, len(content)) from error


def commit_json(path: str | Path, content: Any) -> None:
    """Write `content` as JSON, wholly or not at all."""
    commit(path, json.dumps(content, indent=1) + "\n")


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """An empty folder to be filled, which becomes `path` when the block ends. `path` must not exist or be empty."""
    part = _part(path)
    try:
        part.mkdir()
        yield part
        for file in part.iterdir():
            _sync(file)
        _sync(part)
        os.replace(part, path)  # an empty folder is replaced, a full one is an error
        _sync(path.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def commit_folder(path: str | Path, files: Mapping[str, bytes]) -> None:
    """Write a new folder of files, all or none. Raises Refusal (full disk, no rights, a folder that holds something)."""
    try:
        with replacing_folder(Path(path)) as part:
            for name, content in files.items():
                (part / name).write_bytes(content)
    except OSError as error:
        raise unwritable(
            Path(path), error, sum(map(len, files.values())), "a new or empty folder"
        ) from error


def append(path: Path, line: bytes) -> None:
    """Add a line to a file that several processes add to; it is on the disk when this returns."""
    try:
        with path.open("ab", buffering=0) as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            end = os.fstat(file.fileno()).st_size
            if file.write(line) < len(line):
                os.ftruncate(file.fileno(), end)  # half a line would swallow the next one
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
    except OSError as error:
        raise unwritable(path, error, len(line)) from error


@contextmanager
def locked(folder: Path, advice: str, what: str = "run") -> Iterator[None]:
    """Make a folder and keep everybody else who asks for it out; Refusal, with the advice, if somebody holds it already.

    The lock is the process's own (`lockf`): unlike that of `flock` it is not inherited by workers that outlive a kill.
    """
    taken = Refusal(f"{folder}: another {what} is writing here; {advice}")
    key = folder.resolve()
    if key in _locked:
        raise taken
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise Refusal(f"{folder}: cannot be written: {error.strerror}") from None
    with lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # systems differ in what a held lock raises
            raise taken from None
        _locked.add(key)
        try:
            yield
        finally:
            _locked.discard(key)


def digest(*parts: str | bytes) -> str:
    """SHA-256 of a content, or of several texts ("ab", "c" and "a", "bc" differ), as 64 hex digits."""
    contents = [
        part if isinstance(part, bytes) else part.encode("utf-8", "surrogateescape")
        for part in parts
    ]
    return hashlib.sha256(b"\x1f".join(contents)).hexdigest()


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's content, as `sha256sum` prints it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a JSONL file; a last line cut short by a crash was never committed and is left out."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.endswith(b"\n"):
                yield _record(line, f"{path}, line {number}")


def _record(line: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise Refusal(f"{where}: is no JSON") from None
    if not isinstance(record, dict):
        raise Refusal(f"{where}: holds a {type(record).__name__}, not a record")
    return record


def printable(text: object) -> str:
    """A text on one line that no terminal acts upon: file names may hold line ends, escape sequences, bytes that are no UTF-8."""
    shown = str(text)
    for secret in _secrets:
        shown = shown.replace(secret, "***")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown)


def conceal(secret: str) -> None:
    """Keep a value out of every line that is printed (`printable`): a password out of the environment."""
    if secret:
        _secrets.add(secret)


def first_line(error: BaseException) -> str:
    """The first line of an error's text that is not blank, or its kind."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name[:200]}.{os.getpid()}.tmp")


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk and survive a power cut."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
