"""What the folder of a training run holds: logs/<project>/<name>/{config.yaml,checkpoints/,tensorboard/}. A leaf."""

import zipfile
from pathlib import Path

from data.files import Refusal

PARTS = ("prior", "first_stage")  # what a configuration trains, one of them
BEST, LAST = "checkpoints/best.ckpt", "checkpoints/last.ckpt"


def checkpoint(path: Path) -> Path:
    """The checkpoint that the folder of a training run means, the best or else the last; other paths as they are."""
    return next((path / file for file in (BEST, LAST) if (path / file).is_file()), path)


def checkpoint_of(resume: str | None, folder: Path) -> Path | None:
    """The file that --resume DIR|CKPT|auto means; `auto` starts anew where there is nothing to go on with.

    A folder means its last checkpoint, or the best of a run that ended before it had saved one, or whose last is damaged.
    """
    if resume is None:
        return None
    path = folder if resume == "auto" else Path(resume)
    kept = [path / file for file in (LAST, BEST) if (path / file).is_file() and intact(path / file)]
    if kept or resume == "auto":
        return kept[0] if kept else None
    if not path.is_file():
        raise Refusal(f"--resume: {path}: no such checkpoint")
    return path


def intact(path: Path) -> bool:
    """Whether a checkpoint is whole; if it is not, that is said. torch's files are archives with a checksum of each entry.

    Saving is all or nothing, so that only a disk or a copy can have damaged it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError):
        bad = path.name
    if bad:
        print(f"note: {path} is damaged and passed over", flush=True)
    return not bad
