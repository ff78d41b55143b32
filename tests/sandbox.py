"""A container without an engine: bubblewrap gives a command another user id, a read-only file system and no network."""

import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
needs = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
UID = "65532"
SYSTEM = ("/usr", "/etc", "/bin", "/sbin", "/lib", "/lib64")
Mount = tuple[Path, str, bool]  # folder here, its place inside, whether it can only be read


def command(
    words: Iterable[str],
    mounts: Iterable[Mount] = (),
    variables: Mapping[str, str] = {},  # noqa: B006
    app: Path = ROOT,
    environment: Path = Path(sys.prefix),
) -> list[str]:
    """The words as the process of a container: `app` is its /app, and only the mounts and /tmp can be written.

    environment: the virtual environment whose python it is.
    """
    shut = [
        "bwrap",
        "--unshare-all",
        "--die-with-parent",
        "--new-session",
        "--uid",
        UID,
        "--gid",
        UID,
        "--clearenv",
    ]
    seen = [
        "--tmpfs",
        "/",
        "--dev",
        "/dev",
        "--proc",
        "/proc",
        "--tmpfs",
        "/tmp",
        "--tmpfs",
        "/dev/shm",
    ]
    for path in SYSTEM:
        if Path(path).is_symlink():
            seen += ["--symlink", str(Path(path).readlink()), path]
        elif Path(path).exists():
            seen += ["--ro-bind", path, path]
    for path in {str(environment.resolve()), sys.base_prefix} - {"/usr"}:
        seen += ["--ro-bind", path, path]
    seen += ["--ro-bind", str(app), "/app", "--chdir", "/app"]
    for here, there, read_only in mounts:
        seen += ["--ro-bind" if read_only else "--bind", str(here), there]
    python = environment.resolve() / "bin"
    own = {
        "PATH": f"{python}:/usr/bin:/bin",
        "HOME": "/tmp",
        "OMP_NUM_THREADS": "1",
        "USER": "palimpsest",
    }
    for key, value in {**own, **variables}.items():
        seen += ["--setenv", key, value]
    return [*shut, *seen, "--remount-ro", "/", *words]
