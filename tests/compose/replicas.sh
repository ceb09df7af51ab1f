#!/bin/bash
# Several containers of BuildBot and of TestBot on one store in PostgreSQL: pushes are shared, one is killed while it builds,
# and each push is built once. Images are made of the programs in target/images. Ends all that it starts.
set -euo pipefail
cd "$(dirname "$0")/../.."
name=replicas
export COMPOSE_FILE=docker-compose.yml:deploy/compose/postgres.yml
export LOTA_BUILD_BOT_MEMORY=768m LOTA_TEST_BOT_MEMORY=768m LOTA_POSTGRES_MEMORY=512m
. tests/compose/fleet.sh

docker compose up --detach --wait --scale build-bot=3 --scale test-bot=2 >"$work/up.log" 2>&1 ||
    { tail -n 30 "$work/up.log" >&2; failed 'docker compose up'; }
passed '3 containers of BuildBot and 2 of TestBot on one store, all healthy'

# worked BOT: which containers of it had a job, one a line.
worked() { docker compose logs --no-color "$1" | grep 'job begins' | cut -d '|' -f 1 | sort -u; }
# builds: a container in which a build's step runs.
builds() {
    local container
    for container in $(docker compose ps --quiet build-bot); do
        if docker exec "$container" sh -c 'cat /proc/[0-9]*/comm 2>/dev/null' | grep -qx sleep; then
            echo "$container"
            return
        fi
    done
    return 1
}
load shared 16 4 >"$work/shared" &
push=$!
waits 120 'a build' builds >"$work/victim"
docker kill --signal KILL "$(cat "$work/victim")" >/dev/null
wait "$push" || failed 'pushes'
[ "$(wc -l <"$work/shared")" = 16 ] || failed "pushed $(wc -l <"$work/shared") of 16"
waits 240 'what was pushed while a replica was killed' settled "$work/shared"
worked build-bot >"$work/build-bots"
worked test-bot >"$work/test-bots"
[ "$(wc -l <"$work/build-bots")" -ge 2 ] || failed "builds ran in $(cat "$work/build-bots") alone"
! grep -q '^message.dead_lettered' "$work/events" || failed "dead letters: $(grep dead_lettered "$work/events")"
passed "one killed while it built: 16 of 16 pushes built and tested once, in $(wc -l <"$work/build-bots") and $(wc -l <"$work/test-bots") containers"

note_volumes
# A replica that comes back, or a new one, finds its folder and its work.
docker compose up --detach --wait --scale build-bot=2 --scale test-bot=1 >"$work/up.log" 2>&1 || { tail -n 30 "$work/up.log" >&2; failed 'fewer replicas'; }
load fewer 4 >"$work/fewer" || failed 'pushes'
waits 180 'what was pushed to fewer replicas' settled "$work/fewer"
passed 'scaled down: 4 of 4 pushes went through, each once'
