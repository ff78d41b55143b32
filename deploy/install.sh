#!/bin/sh
# The steps that make an environment for the program; the image's (deploy/Dockerfile) and the sandbox's of the tests are these.
#
#   deploy/install.sh dependencies [EXTRA…]   what pyproject.toml asks for, with these optional parts
#   deploy/install.sh check                   the program starts: nothing is missing, nothing needs to be written
#
# It works on the folder above its own, with the `python` that is found first.
set -eu
cd "$(dirname "$0")/.."

case "${1:-}" in
dependencies)
    shift
    python - "$@" <<'PYTHON' >"${TMPDIR:-/tmp}/wanted"
import sys, tomllib

project = tomllib.load(open("pyproject.toml", "rb"))["project"]
print("\n".join(sum((project["optional-dependencies"][extra] for extra in sys.argv[1:]), project["dependencies"])))
PYTHON
    python -m pip install --no-cache-dir --disable-pip-version-check --quiet -r "${TMPDIR:-/tmp}/wanted"
    ;;
check)
    python sample.py --help >/dev/null
    ;;
*)
    echo "install.sh: dependencies or check is allowed" >&2
    exit 2
    ;;
esac
