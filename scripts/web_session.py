"""A visitor of the page: what was sent, what is asked of it in palimpsest.py's words, and what is said in the page's."""

import logging
import re
import secrets
import shutil
import tempfile
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

import palimpsest as P
from data import formats
from data.files import Refusal
from data.opened import Opened
from solvers.measured.ct import ScannerCT
from solvers.measured.mri import ScannerMRI
from solvers.run import door

PAGES = 64  # open at once
MEASURED = "this is what was measured"
TASKS = {"k-space": "mri", "sinogram": "ct"}  # that restore what a scanner measured
ASKS = {"mri": ScannerMRI.asks, "ct": f"{ScannerCT.asks}, as ZIP"}
WORDS = {  # of the command line -> of the page
    r"--measurements( FILE)?": f"“{MEASURED}”",
    r"--slicewise": "one slice instead of all",
    r"--solver (\w+)": r"\1",
    r"--max-image-bytes": "--max-upload-mb of the server",
    r"command line: |\b(operator|likelihood|solver)\.params\.": "",
    r"(?<!\w)/([^\s/:]+/)+": "",  # folders of this computer
}
loaded = lru_cache(maxsize=2)(P.load)


class Session:
    """One visitor: a folder for what is sent, the rows in it, the last result, and whether a stop was asked for."""

    open: dict[str, "Session"] = {}  # by token
    priors: dict[str, str] = {}  # what their names mean, the same for all

    def __init__(self) -> None:
        if len(Session.open) >= PAGES:
            raise Refusal(f"{PAGES} pages are open already")
        self.token = secrets.token_urlsafe(24)
        self.folder = Path(tempfile.mkdtemp(prefix="palimpsest-web-"))
        self.stop, self.scan, self.scans = threading.Event(), Opened(Path(), []), 0
        self.result: Any = None
        Session.open[self.token] = self

    def close(self) -> None:
        self.stop.set()
        Session.open.pop(self.token, None)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def hole(self) -> Path:
        """What was drawn: 255 where a pixel was measured."""
        return self.folder / "mask.png"

    @property
    def sent(self) -> bool:
        """Whether the scan is the visitor's own."""
        return self.scan.path.is_relative_to(self.folder)

    @property
    def name(self) -> str:
        """What the scan is called in a command, without the folder of what was sent."""
        return self.scan.path.name if self.sent else f"models/demo-data/{self.scan.path.name}"

    def receive(self, path: Path, _: int = 0) -> None:
        self.look(Opened.of(path))

    def look(self, scan: Opened) -> None:
        """Restore this from now on, and forget what came before: its run, result, mask and file."""
        self.stop.set()
        self.scan, self.scans, self.result = scan, self.scans + 1, None
        self.hole.unlink(missing_ok=True)
        for old in self.folder.glob("sent-*"):
            if not scan.path.is_relative_to(old):
                shutil.rmtree(old)

    def mask(self, path: Path, width: int) -> None:
        """Bytes, 255 where a pixel was measured, as the mask of the next restoration; none if all were."""
        drawn = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
        self.hole.unlink(missing_ok=True)
        if (drawn < 255).any():
            pixels = drawn.reshape(1, -1, width).float()
            formats.write(formats.Image(pixels, formats.Meta("png", "uint8")), self.hole)

    def take(self, what: str) -> Path:
        """The file of a download."""
        if what == "mask":
            return self.hole
        if what == "report":
            self.result.save(self.folder / "restored", overwrite=True)
            path = self.folder / "restored/report.html"
            path.write_text(self.named(path.read_text()))
            return path
        path = self.folder / ("panel.png" if what == "panel" else f"restored{self.result.suffix}")
        (self.result.picture if what == "panel" else self.result).save(path)
        return path

    def named(self, text: str) -> str:
        """Of files and priors their names, without the folders of this computer."""
        priors = {Path(folder).parent for folder in Session.priors.values()}
        for folder in (self.scan.path.parent, self.folder, *(priors - {Path()})):
            text = text.replace(f"{folder}/", "")
        return text

    def said(self, error: BaseException) -> str:
        """The line about a mistake, in the page's words, without any path of this computer. A bug is in the log."""
        if self.token not in Session.open:
            return "This page was closed."
        reason = door.explained(error)
        if not reason:
            logging.error("a bug in the program", exc_info=error)
            return "Something went wrong; the server's log says what."
        return ours(reason)


class Answers(NamedTuple):
    """What the controls say; or these controls themselves. An empty number is None."""

    session: Any
    slice: Any
    every: Any  # all slices instead
    task: Any
    measured: Any
    how: Any  # settings of the task that were changed, by key
    solver: Any
    prior: Any
    steps: Any
    draws: Any
    seed: Any

    def words(self) -> dict[str, Any]:
        """What is asked of P.restore. Names are those of the lists and settings the task's own: nothing else is passed on."""
        scan: Opened = self.session.scan
        words = {"prior": Session.priors[self.prior], "task": self.task, "solver": self.solver}
        for name in ("steps", "draws", "seed"):
            if (number := getattr(self, name)) is not None:
                words[name] = int(number)
        if window := scan.rows[0].window:
            words["window"] = "{:g}:{:g}".format(*window)
        if len(scan.rows) > 1 and not self.every:
            words["slice_range"] = f"{int(self.slice)}:{int(self.slice) + 1}"
        if self.measured or scan.holds in TASKS:
            words["measurements"] = True
        return {**words, "overrides": self.overrides()}

    def overrides(self) -> list[str]:
        """Raises Refusal for settings that are none, and for scan and task that do not belong together."""
        holds, due = self.session.scan.holds, TASKS.get(self.session.scan.holds, self.task)
        if due != self.task:
            raise Refusal(f"the file holds a {holds} measurement, which the task {due} restores")
        if self.task in ASKS and holds not in TASKS:
            raise Refusal(ASKS[self.task])
        found = []
        for one in P.settings("tasks", self.task):
            if one.name == "mask" and one.kind == "file":
                if not self.session.hole.exists():
                    raise Refusal("draw over the scan what is missing")
                found.append(f"{one.key}={self.session.hole}")
            elif one.key in self.how:
                found.append(one.override(self.how[one.key]))
        return [word for word in found if word]

    def spelled(self) -> str:
        """The command line and the line of Python that do the same, with files as they were sent or can be taken."""
        name, words = self.session.name, self.words()
        words["overrides"] = [self.session.named(word) for word in words["overrides"]]
        words["prior"] = Path(words["prior"]).name
        call = ", ".join(f"{key}={value!r}" for key, value in words.items())
        sent = "files of the ZIP" if self.session.scan.path.is_dir() else "the file"
        own = f"# {name}: {sent} that was sent; its name seeds the noise\n"
        python = f"import palimpsest as P\nresult = P.restore({name!r}, {call})"
        return f"{own * self.session.sent}{P.command(name, **words)}\n\n{python}"

    def seconds(self) -> float:
        """That the run would take on this computer."""
        words = self.words()
        steps = words.pop("steps", None) or own_steps(self.solver)
        words.pop("seed", None)  # with another one `pace` would be measured anew
        return steps * pace(self.session.scan.path, tuple(words.pop("overrides")), **words)


@lru_cache(maxsize=256)
def pace(path: Path, overrides: tuple[str, ...], prior: str, **words: Any) -> float:
    """Seconds a step."""
    return P.estimate(path, loaded(prior), overrides=overrides, steps=10, **words) / 10


def ours(line: str) -> str:
    """What the program says, in the page's words."""
    for theirs, own in WORDS.items():
        line = re.sub(theirs, own, line)
    return line


def own_steps(solver: str) -> int:
    return next(int(one.value) for one in P.settings("solvers", solver) if one.name == "steps")


def ends(level: float | None, width: float | None) -> tuple[float, float] | None:
    """What is shown as black and as white; None where the fields do not say it."""
    if level is None or not width or width < 0:
        return None
    return level - width / 2, level + width / 2
