"""Two processes of one group on two networks that a cable joins, which is cut: run under `unshare --map-root-user --net`.

python severed.py SECONDS FILE PROGRAM [words]: FILE appears, the cable goes, each process has so many seconds to end.
Prints what became of both as JSON: exit code, seconds after the cut, what it said on stderr. The group gives up waiting for
an answer after GIVE_UP seconds, where torch's own limit is half an hour.
"""

import json
import os
import runpy
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

HERE = Path(__file__).resolve()
GIVE_UP = 8
ENDS = ("near", "far")  # of the cable
FAR = 'until ip address add 10.9.0.2/24 dev far; do sleep 0.05; done 2>/dev/null; ip link set far up; exec "$@"'


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def started(rank: int, program: list[str]) -> subprocess.Popen:
    """One of two processes, each on a machine of its own, as torchrun starts them."""
    told = {
        "RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "GROUP_RANK": rank,
        "MASTER_ADDR": "10.9.0.1", "MASTER_PORT": 29871, "TORCHELASTIC_RUN_ID": "cut",
        "GLOO_SOCKET_IFNAME": ENDS[rank], "OMP_NUM_THREADS": 1,
    }  # fmt: skip
    words = [sys.executable, str(HERE), "one", *program]
    words = ["unshare", "--net", "sh", "-c", FAR, "sh", *words] if rank else words
    environment = os.environ | {key: str(value) for key, value in told.items()}
    return subprocess.Popen(
        words, env=environment, cwd=HERE.parents[1], stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def joined(program: list[str]) -> list[subprocess.Popen]:
    """Both processes, and the cable between them."""
    ip("link", "set", "lo", "up")
    ip("link", "add", "near", "type", "veth", "peer", "name", "far")
    ip("address", "add", "10.9.0.1/24", "dev", "near")
    ip("link", "set", "near", "up")
    both = [started(rank, program) for rank in range(2)]
    ours = os.readlink("/proc/self/ns/net")
    while os.readlink(f"/proc/{both[1].pid}/ns/net") == ours:
        time.sleep(0.01)
    ip("link", "set", "far", "netns", str(both[1].pid))
    return both


def cut(seconds: float, file: Path, program: list[str]) -> list[dict]:
    both, found = joined(program), []
    try:
        while not file.exists() and both[0].poll() is None:
            time.sleep(0.05)
        ip("link", "set", "near", "down")
        begun = time.monotonic()
        for one in both:
            said = one.communicate(timeout=seconds)[1]
            took = time.monotonic() - begun
            found.append({"code": one.returncode, "seconds": took, "said": said})
    finally:
        for one in both:
            one.kill()
    return found


def one(program: str, *words: str) -> None:
    """A door whose group is impatient."""
    from pytorch_lightning.strategies import DDPStrategy

    defaults = DDPStrategy.__init__.__defaults__
    impatient = timedelta(seconds=GIVE_UP)
    DDPStrategy.__init__.__defaults__ = tuple(
        impatient if isinstance(value, timedelta) else value for value in defaults
    )
    sys.argv = [program, *words]
    sys.path.insert(0, str(HERE.parents[1]))
    runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    if sys.argv[1] == "one":
        one(*sys.argv[2:])
    else:
        print(json.dumps(cut(float(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])))
