"""What the page asks of palimpsest.py, and what it says to its visitor; without a browser."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny

import palimpsest as P
from data.opened import Opened
from solvers.run.progress import about

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
from web_session import Answers, Session, ends, ours  # noqa: E402

SCAN = ROOT / "models/demo-data/lung2-ax-035.dcm"
MISSING = "operator.params.missing"


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    prior = tiny.folder(tmp_path / "tiny", tiny.pixel(16))
    Session.priors, made = {"tiny": str(prior)}, Session()
    yield made
    made.close()
    assert not made.folder.exists()


def send(session: Session, name: str, array: np.ndarray | None = None) -> None:
    folder = session.folder / f"sent-{session.scans}"
    folder.mkdir()
    if array is None:
        shutil.copy(SCAN, folder / name)
    else:
        np.save(folder / name, array)
    session.receive(folder / name)


def said(session: Session, **changed) -> Answers:
    first = Answers(session, 0, False, "super_resolution", False, {}, "pnp", "tiny", 2, 1, 0)
    return first._replace(**changed)


def refused(answers: Answers) -> str:
    with pytest.raises(P.Refusal) as error:
        answers.words()
    return answers.session.said(error.value)


def test_what_is_asked_is_what_the_controls_say(session: Session):
    send(session, "scan.dcm")
    words = said(session, steps=None, draws=3.0, how={"operator.params.factor": "2"}).words()
    assert words == {
        "prior": Session.priors["tiny"],
        "task": "super_resolution",
        "solver": "pnp",
        "draws": 3,
        "seed": 0,
        "overrides": ["operator.params.factor=2"],
    }
    assert said(session, measured=True).words()["measurements"] is True


def test_an_emptied_noise_level_is_estimated(session: Session):
    send(session, "scan.dcm")
    words = said(session, how={"likelihood.params.sigma_y": ""}).words()
    assert words["overrides"] == ["likelihood.params.sigma_y=null"]


def test_a_slice_of_a_volume_or_all(session: Session):
    send(session, "scan.npy", np.random.default_rng(0).random((6, 16, 16), np.float32))
    assert said(session, slice=4.0).words()["slice_range"] == "4:5"
    assert "slice_range" not in said(session, every=True).words()


def test_a_list_is_a_list_or_one_line(session: Session):
    send(session, "scan.npy", np.random.default_rng(0).random((6, 16, 16), np.float32))
    task = said(session, task="missing_slices", every=True)
    assert f"{MISSING}=[3,5]" in task._replace(how={MISSING: "3, 5"}).words()["overrides"]
    line = "missing '3, x': whole numbers with commas between are allowed"
    assert refused(task._replace(how={MISSING: "3, x"})) == line


def test_a_mask_is_drawn_first(session: Session):
    send(session, "scan.dcm")
    assert refused(said(session, task="inpainting_mask")) == "draw over the scan what is missing"
    (session.folder / "bytes").write_bytes(b"\0" + b"\xff" * 255)
    session.mask(session.folder / "bytes", 16)
    overrides = said(session, task="inpainting_mask").words()["overrides"]
    assert overrides == [f"operator.params.mask={session.hole}"]
    assert str(session.folder) not in said(session, task="inpainting_mask").spelled()
    (session.folder / "bytes").write_bytes(b"\xff" * 256)  # cleared
    session.mask(session.folder / "bytes", 16)
    assert "draw over" in refused(said(session, task="inpainting_mask"))
    session.mask(session.folder / "bytes", 16)
    send(session, "scan.dcm")
    assert not session.hole.exists()


def test_a_scanners_task_and_its_file_belong_together(session: Session):
    send(session, "scan.dcm")
    line = "mri restores what a scanner measured: give k-space as HDF5, MRD or NPY"
    assert refused(said(session, task="mri", measured=True)) == line
    send(session, "scan.npy", np.ones((2, 16, 16), np.complex64))
    line = "the file holds a k-space measurement, which the task mri restores"
    assert refused(said(session)) == line
    assert said(session, task="mri").words()["measurements"] is True


def test_the_page_speaks_its_own_language(session: Session):
    theirs = "command line: operator.params.mask: /tmp/a/mask.png cannot be opened"
    assert session.said(P.Refusal(theirs)) == "mask: mask.png cannot be opened"
    theirs = "draws spread less; --solver daps draws from the posterior (--measurements FILE)"
    wanted = "draws spread less; daps draws from the posterior (“this is what was measured”)"
    assert ours(theirs) == wanted
    assert not [line for line in P.tasks().values() if "--" in ours(line)]
    assert "log" in session.said(ZeroDivisionError())


def test_the_command_names_no_folder_of_the_server(session: Session):
    send(session, "scan.dcm")
    lines = said(session).spelled()
    assert "python sample.py --data-root scan.dcm --model tiny" in lines
    assert str(session.folder) not in lines and Session.priors["tiny"] not in lines
    session.look(Opened.of(SCAN))
    assert "--data-root models/demo-data/lung2-ax-035.dcm" in said(session).spelled()


def test_a_report_names_no_folder_of_the_server(session: Session):
    send(session, "scan.dcm")
    session.result = P.restore(session.scan.path, accelerator="cpu", **said(session).words())
    text = session.take("report").read_text()
    assert "images: scan.dcm" in text and "model: tiny" in text
    assert str(session.folder) not in text and str(Path(Session.priors["tiny"]).parent) not in text


def test_a_run_ends_with_nothing_of_a_scan_that_is_gone(session: Session):
    pytest.importorskip("gradio")
    from web_page import restore

    send(session, "scan.dcm")
    run = restore(-300, 1400, *said(session, steps=2000))
    next(run)
    send(session, "another.dcm")
    *_, (shown, row, line) = run
    assert shown == line == "" and not row["visible"]
    run = restore(-300, 1400, *said(session, steps=2000))
    session.stop.clear()
    next(run)
    session.stop.set()
    *_, (shown, _, _) = run
    assert "Stopped" in shown and " left" not in shown


def test_nothing_is_refused_of_a_scan_that_is_gone(session: Session, monkeypatch):
    pytest.importorskip("gradio")
    from web_page import restore

    def follow(*_, **__):
        send(session, "another.dcm")
        raise P.Refusal("scan.dcm: no such folder")

    send(session, "scan.dcm")
    monkeypatch.setattr(P, "follow", follow)
    assert [shown for shown, *_ in restore(-300, 1400, *said(session))] == [""]


def test_the_window_is_told_in_few_digits(session: Session):
    pytest.importorskip("gradio")
    from web_page import chosen

    send(session, "scan.npy", np.linspace(-1.0235, 1.2555, 256, dtype=np.float32).reshape(16, 16))
    assert list(chosen(session, "super_resolution")[3:5]) == [0.116, 2.279]


def test_the_command_says_what_became_of_a_zip(session: Session):
    folder = session.folder / "sent-zip/scan"
    folder.mkdir(parents=True)
    shutil.copy(SCAN, folder / "0001.dcm")
    session.receive(folder)
    assert said(session).spelled().startswith("# scan: files of the ZIP that was sent")


def test_seconds_are_told_in_words_of_their_size(session: Session):
    assert [about(s) for s in (0.001, 0.34, 75.2, 240)] == ["0.1 s", "0.3 s", "75 s", "4 min"]
    send(session, "scan.dcm")
    assert 0 < said(session, steps=2).seconds() < said(session, steps=2000).seconds()


def test_the_window_of_two_numbers():
    assert ends(-300, 1400) == (-1000, 400)
    assert ends(None, 1400) is ends(0, 0) is ends(0, None) is ends(0, -5) is None
