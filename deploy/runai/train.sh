#!/bin/sh
# Train on a Run:AI cluster: one GPU, the data and the logs on mounted volumes.
#
#   IMAGE=registry/palimpsest PROJECT=team DATA=/shared/scans LOGS=/shared/logs deploy/runai/train.sh run1 \
#       --base configs/latent-diffusion/ffhq-ldm-vq-4.yaml configs/projects/medical_super_resolution.yaml \
#       --project medical-sr --max_steps 100000 --limit_val_batches 0.1 --gradient_clip_val 1.0
#
# The first word is the job's name and the run's: results are in <LOGS>/<project>/<name>. A preempted job is started again
# by Run:AI with the same command; --resume auto makes it go on where it stopped. Monitoring: docs/jobs.md.
data=/app/data/super_resolution logs=/app/logs
. "$(dirname "$0")/submit.sh"
submit main.py --train True --name "$name" --logdir /app/logs --resume auto "$@"
