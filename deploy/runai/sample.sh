#!/bin/sh
# Restore a split on a Run:AI cluster.
#
#   IMAGE=registry/palimpsest PROJECT=team DATA=/shared/scans LOGS=/shared/logs deploy/runai/sample.sh sr-test \
#       --split test --task super_resolution --solver resample --model /logs/medical-sr/run1/checkpoints/best.ckpt
#
# Results are in <LOGS>/<PROJECT>/<name>. A preempted job goes on with the first image that is not committed.
data=/data logs=/logs
. "$(dirname "$0")/submit.sh"
submit sample.py --data-root /data --save-dir "/logs/$PROJECT/$name" "$@"
