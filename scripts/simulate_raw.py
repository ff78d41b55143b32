"""Write the files that scanners write, of images whose truth is known: k-space with coils, phase and noise.

    python scripts/simulate_raw.py mri models/demo-data/brain2.nii.gz --output scan.h5 --truth truth/scan.nii.gz
    python scripts/simulate_raw.py mri --help

Exit codes: 0 done, 2 a mistake in what was asked (one line says which).
"""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from data.files import Refusal, nearest
from solvers.run import door

KINDS = {"mri": "simulate_mri"}  # first word -> the script beside this one that does it


def main(argv: Sequence[str]) -> int:
    if argv and argv[0] in KINDS:
        return importlib.import_module(KINDS[argv[0]]).main(argv[1:])
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if argv else 2

    def stranger() -> int:
        raise Refusal(f"{argv[0]!r} is no kind of scan{nearest(argv[0], KINDS)}")

    return door.run("simulate_raw.py", argv, stranger)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
