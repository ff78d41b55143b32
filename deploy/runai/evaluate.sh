#!/bin/sh
# Compare two folders of images on a Run:AI cluster (no GPU is needed, one is used where there is one).
#
#   IMAGE=registry/palimpsest PROJECT=team DATA=/shared/scans LOGS=/shared/logs deploy/runai/evaluate.sh eval-sr \
#       /data/test /logs/team/sr-test/test/recon
#
# The table is in the job's output and in <LOGS>/<PROJECT>/<name>.json.
data=/data logs=/logs
. "$(dirname "$0")/submit.sh"
submit scripts/evaluate.py "$@" --output "/logs/$PROJECT/$name.json"
