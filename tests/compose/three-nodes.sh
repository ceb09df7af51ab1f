# three-nodes.sh: fleet.sh for a fleet on deploy/compose/cluster.yml, and how its broker and its databases are asked. Sourced as
# that is, with `name` set.
# shellcheck shell=bash
export COMPOSE_FILE=docker-compose.yml:deploy/compose/postgres.yml:deploy/compose/cluster.yml
export LOTA_BROKER_HOST=brokers LOTA_BUILD_BOT_MEMORY=768m LOTA_TEST_BOT_MEMORY=768m LOTA_POSTGRES_MEMORY=512m
. tests/compose/fleet.sh

broker() { docker compose run --rm -T --no-deps --entrypoint python3 lota - "$@" <tests/compose/broker.py; }
sql() { docker compose exec -T "$1" psql --username postgres --dbname lota --tuples-only --no-align --command "$2"; }
is() { [ "$("${@:2}" 2>/dev/null)" = "$1" ]; }
