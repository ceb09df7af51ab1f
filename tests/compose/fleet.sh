# fleet.sh: what the tests of docker-compose.yml share. Sourced by bash in the root of the tree, with `name` set; afterwards
# the folder is a clean clone, whose images are built of target/images. Everything is removed at the end.
# shellcheck shell=bash disable=SC2034
export LOTA_BINARIES=prebuilt COMPOSE_PROJECT_NAME=lota-test-$$
# Ports beside those of a fleet that runs here.
place=$(($$ % 100))
export LOTA_MONITOR_PORT=$((18600 + place)) LOTA_APPLICATION_PORTS=$((28000 + 10 * place))-$((28009 + 10 * place)) LOTA_VERSION=test-$$
work=$(mktemp -d)
: >"$work/volumes"

missing() {
    echo "$name: not tested: $1" >&2
    rm -rf "$work"
    exit 69
}
passed() { echo "$name: ok: $1"; }
failed() {
    echo "$name: FAILED: $1" >&2
    docker compose logs --no-color --tail 30 >&2 || true
    exit 1
}
# In the container of the operator's command.
lota() { docker compose run --rm -T --no-deps lota "$@"; }
load() { docker compose run --rm -T --no-deps --entrypoint sh lota -s "$@" <tests/compose/load.sh 2>>"$work/load.log"; }
events() { docker compose run --rm -T --no-deps --env "LOTA_BROKER_HOST=${LOTA_BROKER_HOST:-rabbitmq}" --entrypoint python3 lota - <tests/compose/events.py; }
# waits SECONDS WHAT COMMAND...: until the command succeeds.
waits() {
    local limit=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        [ "$SECONDS" -lt "$limit" ] || failed "$what: not within its time"
        sleep 1
    done
}
# settled FILE: every correlation in it came to one end.
settled() {
    events >"$work/events" 2>/dev/null || return 1
    while read -r correlation; do
        grep -q "^build.completed $correlation 1$" "$work/events" && grep -q "^test.completed $correlation 1$" "$work/events" || return 1
    done <"$1"
}

# What is of this fleet, by Compose's label: of `container`, `volume` or `network`.
ours() {
    local all=
    [ "$1" != container ] || all=--all
    docker "$1" ls --quiet $all --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME"
}
# Volumes without a name bear no label, so they are known by the containers that have them: to be called before one goes.
note_volumes() {
    ours container | xargs -r docker inspect --format '{{range .Mounts}}{{if eq .Type "volume"}}{{println .Name}}{{end}}{{end}}' |
        sed '/^$/d' >>"$work/volumes" || true
}
# However far it came, also by a signal.
end() {
    local code=$? left
    trap '' INT TERM HUP
    jobs -p | xargs -r kill 2>/dev/null || true
    wait
    note_volumes
    docker container rm --force ${crowd:-} >/dev/null 2>&1 || true
    docker compose --profile '*' down --volumes --remove-orphans --timeout 20 >/dev/null 2>&1 || true
    # Where Compose could not: a command that still ran, a file that changed, a container that was made meanwhile.
    ours container | xargs -r docker container rm --force --volumes >/dev/null 2>&1 || true
    { ours volume; cat "$work/volumes" 2>/dev/null; } | sort -u | xargs -r docker volume rm --force >/dev/null 2>&1 || true
    ours network | xargs -r docker network rm >/dev/null 2>&1 || true
    docker image ls --quiet "lotabots/*:$LOTA_VERSION" | sort -u | xargs -r docker image rm --force >/dev/null 2>&1 || true
    left=$({ ours container; ours volume; ours network; docker volume ls --quiet | grep -Fxf "$work/volumes"; } 2>/dev/null | sort -u) || true
    [ -z "$left" ] || { echo "$name: FAILED: left behind: $left" >&2; code=1; }
    rm -rf "$work"
    exit "$code"
}

docker info >/dev/null 2>&1 || missing 'no container engine answers: install docker, or start its service'
docker compose version >/dev/null 2>&1 || missing 'docker has no plugin compose: install docker-compose-v2 or docker-compose-plugin'
[ -x target/images/lota ] || missing 'target/images holds no programs: deploy/binaries.sh target/images'
trap end EXIT
trap 'exit 130' INT TERM HUP
tests/compose/base-images.sh ${COMPOSE_FILE:+postgres} || missing 'there are no images to make others from'
git clone --quiet . "$work/clone"
mkdir "$work/clone/target"
cp -a target/images "$work/clone/target/"
cd "$work/clone"
docker compose --profile '*' build >"$work/build.log" 2>&1 || { tail -n 30 "$work/build.log" >&2; failed 'images build'; }
