# shellcheck shell=sh
# What the jobs share. They read this file with `.` after saying where the volumes appear in the container: data=, logs=.
# It takes the first word as the name of the run, and defines `submit WORDS...`, which runs `python WORDS...` as a job.
# GPU, CPU and MEMORY may be set to something else than 1, 8 and 64G.
set -eu
: "${IMAGE:?the container image}" "${PROJECT:?the Run:AI project}" "${DATA:?folder of the scans}" "${LOGS:?folder for the logs}"
name=${1:?the name of the run}
shift

submit() {
    exec runai submit "$name" --image "$IMAGE" --project "$PROJECT" \
        --gpu "${GPU:-1}" --cpu "${CPU:-8}" --memory "${MEMORY:-64G}" \
        --volume "$DATA:${data:?}" --volume "$LOGS:${logs:?}" \
        --command -- python "$@"
}
