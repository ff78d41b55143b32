#!/bin/sh
# Compare two folders of images on a Run:AI cluster (no GPU is needed, one is used where there is one).
#
#   IMAGE=registry/palimpsest PROJECT=team DATA=/shared/scans LOGS=/shared/logs deploy/runai/evaluate.sh eval-sr \
#       /data/test /logs/team/sr-test/test/recon
#
# The table is in the job's output and in <LOGS>/<PROJECT>/<name>.json.
set -eu
: "${IMAGE:?the container image}" "${PROJECT:?the Run:AI project}" "${DATA:?folder of the scans}" "${LOGS:?folder for the logs}"
name=${1:?the name of the run}
shift

exec runai submit "$name" --image "$IMAGE" --project "$PROJECT" \
    --gpu "${GPU:-1}" --cpu "${CPU:-8}" --memory "${MEMORY:-64G}" \
    --volume "$DATA:/data" --volume "$LOGS:/logs" \
    --command -- python scripts/evaluate.py "$@" --output "/logs/$PROJECT/$name.json"
