#!/bin/bash
# What docs/RUNBOOKS.md says of the cluster of deploy/compose/cluster.yml, done: a broker's node whose disk is gone, a second
# PostgreSQL that is lost, another password of the broker's administrator, and stores taken back from pg_dump. Images are made of
# the programs in target/images. Ends all that it starts.
set -euo pipefail
cd "$(dirname "$0")/../.."
name=runbooks
. tests/compose/three-nodes.sh
does() { "$@" >"$work/does.log" 2>&1 || { tail -n 30 "$work/does.log" >&2; failed "$*"; }; }
# pushes NAME COUNT: all of them go through.
pushes() {
    load "$1" "$2" >"$work/$1" || failed "pushes, $1"
    [ "$(wc -l <"$work/$1")" = "$2" ] || failed "pushed $(wc -l <"$work/$1") of $2, $1"
    waits 180 "pushes, $1" settled "$work/$1"
}

does docker compose up --detach --wait
pushes before 3
passed 'a fleet on a cluster, 3 of 3 pushes went through'

does docker compose rm --force --stop rabbitmq-2 cookie-2
docker volume rm "${COMPOSE_PROJECT_NAME}_broker-data-2" >/dev/null
does docker compose exec -T rabbitmq rabbitmqctl --node lota@rabbitmq forget_cluster_node lota@rabbitmq-2
pushes without 2
does docker compose up --detach --no-deps cookie-2
does docker compose up --detach --no-deps --wait rabbitmq-2
waits 400 'a member of each queue on the new node' is '3 nodes, 3 members of each quorum queue' broker cluster
pushes with 2
passed 'a node whose disk is gone was forgotten and came back empty, with a member of each queue; 4 of 4 pushes went through'

does docker compose rm --force --stop postgres-2
docker volume rm "${COMPOSE_PROJECT_NAME}_postgres-data-2" >/dev/null
load held 1 >"$work/held" || failed 'a push without the second PostgreSQL'
export LOTA_STORE_STANDBY=
does docker compose up --detach --no-deps --wait postgres
waits 180 'what waited for the second PostgreSQL' settled "$work/held"
pushes single 2
passed 'a second PostgreSQL lost: what waited went on with one; 2 of 2 pushes went through'
does docker compose up --detach --no-deps --wait postgres-2
export LOTA_STORE_STANDBY=postgres-2
does docker compose up --detach --no-deps --wait postgres
waits 60 'two PostgreSQL in step' is sync sql postgres 'SELECT sync_state FROM pg_stat_replication'
pushes double 1
passed 'a new second PostgreSQL follows, in step'

password() { docker compose run --rm -T --no-deps --entrypoint cat lota /broker/admin.password; }
# taken PASSWORD: whether the broker takes it.
taken() {
    docker compose run --rm -T --no-deps --entrypoint curl lota --silent --fail --output /dev/null --config - \
        http://brokers:15672/api/whoami <<<"user = \"lota-admin:$1\""
}
old=$(password)
waits 60 'the password of the administrator' taken "$old"
does docker compose run --rm -T --no-deps --entrypoint rm broker-files /broker/admin.password
does docker compose up --detach --force-recreate broker-files rabbitmq init
new=$(password)
[ "$new" != "$old" ] || failed 'the password of the administrator is the old one'
waits 120 'the new password' taken "$new"
! taken "$old" || failed 'the old password of the administrator is taken'
waits 120 'the topology, applied with the new one' is 'exited 0' docker compose ps --all --format '{{.State}} {{.ExitCode}}' init
pushes administered 1
passed "another password of the broker's administrator: the old one is refused, the topology is applied with the new one"

does docker compose exec -T postgres sh -c 'pg_dump --username postgres --dbname lota --clean --if-exists --create >/tmp/lota.sql'
docker compose exec -T postgres cat /tmp/lota.sql >"$work/lota.sql"
grep -q 'COPY' "$work/lota.sql" || failed 'the dump is empty'
pushes unknown 1
does docker compose stop build-bot test-bot deploy-bot monitor
does docker compose rm --force --stop postgres postgres-2
docker volume rm "${COMPOSE_PROJECT_NAME}_postgres-data" "${COMPOSE_PROJECT_NAME}_postgres-data-2" >/dev/null
export LOTA_STORE_STANDBY=
does docker compose up --detach --no-deps --wait postgres
does docker compose run --rm -T --no-deps init
docker compose exec -T postgres psql --username postgres --dbname postgres --quiet --set ON_ERROR_STOP=1 <"$work/lota.sql" >"$work/does.log" 2>&1 ||
    { tail -n 30 "$work/does.log" >&2; failed 'the dump was not taken'; }
export LOTA_STORE_STANDBY=postgres-2
does docker compose up --detach --no-deps --wait postgres-2
does docker compose up --detach --no-deps --wait postgres
does docker compose up --detach --no-deps --wait build-bot test-bot deploy-bot monitor
pushes restored 2
! grep -q '^message.dead_lettered' "$work/events" || failed "dead letters: $(grep dead_lettered "$work/events")"
passed 'stores taken back from pg_dump into an empty PostgreSQL, which a second one follows: 2 of 2 pushes went through'
