#!/bin/bash
# What docs/RUNBOOKS.md says of a broker that is lost with all it held and of a backup, done with the fleet of
# docker-compose.yml. Images are made of the programs in target/images. Ends all that it starts.
set -euo pipefail
cd "$(dirname "$0")/../.."
name=losses
export LOTA_BUILD_BOT_MEMORY=768m LOTA_TEST_BOT_MEMORY=768m
. tests/compose/fleet.sh

up() { docker compose up --detach --wait >"$work/up.log" 2>&1 || { tail -n 30 "$work/up.log" >&2; failed "docker compose up, $1"; }; }
# pushes NAME COUNT: all of them go through.
pushes() {
    load "$1" "$2" >"$work/$1" || failed "pushes, $1"
    [ "$(wc -l <"$work/$1")" = "$2" ] || failed "pushed $(wc -l <"$work/$1") of $2, $1"
    waits 180 "pushes, $1" settled "$work/$1"
}
volumes() { docker volume ls --quiet --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME"; }

up 'from nothing'
pushes before 4

# The broker is lost while a build runs, which takes longer than that: its end waits in the outbox and is said to the new one.
load running 1 20 >"$work/running"
correlation=$(cat "$work/running")
started() { events | grep -q "^build.started $correlation 1$"; }
waits 60 'the build' started
docker compose rm --force --stop rabbitmq broker-files >/dev/null 2>&1
docker volume rm "${COMPOSE_PROJECT_NAME}_broker-data" >/dev/null
up 'with an empty broker'
waits 180 'what the outboxes held' settled "$work/running"
pushes after 3
passed 'a broker lost with all it held: a running build was told to the new one and tested, once; 3 of 3 new pushes went through'

docker compose stop >/dev/null 2>&1
mkdir "$work/backup"
for volume in $(volumes); do
    docker run --rm --user 0 --volume "$volume:/volume:ro" --entrypoint tar "lotabots/lota:$LOTA_VERSION" -C /volume -cf - . >"$work/backup/$volume.tar"
done
up 'after the backup'
pushes unknown 2
docker compose --profile '*' down --volumes --timeout 20 >/dev/null 2>&1
# Compose makes the volumes, so that they are its own.
docker compose --profile '*' create >/dev/null 2>&1
for volume in $(volumes); do
    docker run --rm --interactive --user 0 --volume "$volume:/volume" --entrypoint sh "lotabots/lota:$LOTA_VERSION" \
        -c 'find /volume -mindepth 1 -delete && tar -C /volume -xpf -' <"$work/backup/$volume.tar"
done
up 'from the backup'
events >"$work/events"
! grep -q "$(head -n 1 "$work/unknown")" "$work/events" || failed 'the backup holds what came after it'
settled "$work/before" || settled "$work/after" || failed 'the backup lacks what came before it'
pushes restored 3
! grep -q '^message.dead_lettered' "$work/events" || failed "dead letters: $(grep dead_lettered "$work/events")"
passed 'volumes taken from a backup: what was before is there, 3 of 3 pushes went through, each once'
