#!/bin/sh
# Restore a split on a Run:AI cluster.
#
#   IMAGE=registry/palimpsest PROJECT=team DATA=/shared/scans LOGS=/shared/logs deploy/runai/sample.sh sr-test \
#       --split test --task super_resolution --solver resample --model /logs/medical-sr/run1/checkpoints/best.ckpt
#
# Results are in <LOGS>/<PROJECT>/<name>. A preempted job goes on with the first image that is not committed.
set -eu
: "${IMAGE:?the container image}" "${PROJECT:?the Run:AI project}" "${DATA:?folder of the scans}" "${LOGS:?folder for the logs}"
name=${1:?the name of the run}
shift

exec runai submit "$name" --image "$IMAGE" --project "$PROJECT" \
    --gpu "${GPU:-1}" --cpu "${CPU:-8}" --memory "${MEMORY:-64G}" \
    --volume "$DATA:/data" --volume "$LOGS:/logs" \
    --command -- python sample.py --data-root /data --save-dir "/logs/$PROJECT/$name" "$@"
