#!/bin/bash
# A test of docker-compose.yml that is ended in the middle leaves nothing: no container, volume, network or image of its own.
set -euo pipefail
cd "$(dirname "$0")/../.."
log=$(mktemp)
trap 'rm -f "$log"' EXIT
tests/compose/replicas.sh >"$log" 2>&1 &
test=$!
of_it() { docker "$@" --filter "label=com.docker.compose.project=lota-test-$test"; }
until [ "$(of_it container ls --quiet | wc -l)" -ge 4 ]; do
    kill -0 "$test" 2>/dev/null || {
        wait "$test" && code=0 || code=$?
        cat "$log" >&2
        [ "$code" != 0 ] || code=1
        exit "$code"
    }
    sleep 0.5
done
kill -TERM "$test"
! wait "$test" || { echo 'interrupted: FAILED: the test came to its end' >&2; exit 1; }
left=$(of_it container ls --all --quiet; of_it volume ls --quiet; of_it network ls --quiet; docker image ls --quiet "lotabots/*:test-$test")
[ -z "$left" ] || { echo "interrupted: FAILED: left behind: $left" >&2; exit 1; }
! grep -q 'left behind' "$log" || { cat "$log" >&2; exit 1; }
echo 'interrupted: ok: a test that was ended while its fleet came up left nothing behind'
