#!/bin/bash
# The cluster of deploy/compose/cluster.yml: under load the node that BuildBot is connected to is killed and comes back, then
# PostgreSQL's primary is lost and the other takes its place, then the lost one follows it. Images are made of the programs in
# target/images. Ends all that it starts.
set -euo pipefail
cd "$(dirname "$0")/../.."
name=cluster
. tests/compose/three-nodes.sh

docker compose up --detach --wait >"$work/up.log" 2>&1 || { tail -n 30 "$work/up.log" >&2; failed 'docker compose up'; }
is '3 nodes, 3 members of each quorum queue' broker cluster || failed "the broker is $(broker cluster)"
is sync sql postgres 'SELECT sync_state FROM pg_stat_replication' || failed "the second PostgreSQL is $(sql postgres 'TABLE pg_stat_replication')"
passed 'three nodes with every queue on each, two PostgreSQL in step, all bots healthy'

load first 20 >"$work/first" &
push=$!
waits 60 'the first push' test -s "$work/first"
lost=$(broker node build-bot)
docker compose kill --signal KILL "$lost" >/dev/null 2>&1
begun=$(date +%s%N)
elsewhere() { local now; now=$(broker node build-bot) && [ -n "$now" ] && [ "$now" != "$lost" ]; }
waits 120 'BuildBot on another node' elsewhere
took=$((($(date +%s%N) - begun) / 1000000))
wait "$push" || failed 'pushes'
[ "$(wc -l <"$work/first")" = 20 ] || failed "pushed $(wc -l <"$work/first") of 20"
waits 180 'what was pushed while a node was lost' settled "$work/first"
! grep -q '^message.dead_lettered' "$work/events" || failed "dead letters: $(grep dead_lettered "$work/events")"
passed "$lost killed: 20 of 20 pushes went through, each once; BuildBot seen on another node after $took ms"
docker compose start "$lost" >/dev/null 2>&1
waits 180 "$lost back with all its queues" is '3 nodes, 3 members of each quorum queue' broker cluster
passed "$lost came back and has a member of every queue"

waits 60 'two PostgreSQL in step' is t sql postgres 'SELECT sent_lsn = replay_lsn FROM pg_stat_replication'
load second 12 >"$work/second" &
push=$!
waits 60 'the first push' test -s "$work/second"
docker compose kill --signal KILL postgres >/dev/null 2>&1
begun=$(date +%s%N)
is t sql postgres-2 'SELECT pg_promote()' || failed 'the second PostgreSQL was not promoted'
export LOTA_STORE_HOST=postgres-2 LOTA_STORE_STANDBY=
docker compose up --detach --no-deps --wait postgres-2 >"$work/up.log" 2>&1 &&
    docker compose up --detach --no-deps --wait build-bot test-bot deploy-bot monitor >"$work/up.log" 2>&1 ||
    { tail -n 30 "$work/up.log" >&2; failed 'bots on the other PostgreSQL'; }
took=$((($(date +%s%N) - begun) / 1000000))
wait "$push" || failed 'pushes'
[ "$(wc -l <"$work/second")" = 12 ] || failed "pushed $(wc -l <"$work/second") of 12"
waits 240 'what was pushed while PostgreSQL was lost' settled "$work/second"
passed "PostgreSQL's primary killed, the other promoted: 12 of 12 pushes went through, each once; bots on it after $took ms"

docker compose rm --force --stop postgres >/dev/null 2>&1
docker volume rm "${COMPOSE_PROJECT_NAME}_postgres-data" >/dev/null
docker compose up --detach --no-deps --wait postgres >"$work/up.log" 2>&1 || { tail -n 30 "$work/up.log" >&2; failed 'the first PostgreSQL as the second'; }
export LOTA_STORE_STANDBY=postgres
docker compose up --detach --no-deps --wait postgres-2 >"$work/up.log" 2>&1 || { tail -n 30 "$work/up.log" >&2; failed 'the new primary'; }
waits 60 'two PostgreSQL in step' is sync sql postgres-2 'SELECT sync_state FROM pg_stat_replication'
load third 4 >"$work/third" || failed 'pushes'
waits 180 'what was pushed afterwards' settled "$work/third"
passed 'the lost PostgreSQL follows the other, in step; 4 of 4 pushes went through'
