#!/bin/bash
# What docs/RUNBOOKS.md says of a newer broker and of a backup, done: a fleet of `lota up` on this machine's RabbitMQ (3.10 of
# Debian bookworm) comes to rest, goes on with a RabbitMQ 4 in a container beside the old one, and is taken from a backup.
# Needs docker and target/debug; ends all that it starts.
set -euo pipefail
cd "$(dirname "$0")/.."
name=broker-upgrade
work=$(mktemp -d)
lota=$PWD/target/debug/lota container=lota-broker-upgrade-$$ image=${LOTA_BROKER_IMAGE:-rabbitmq:4-management}
export LOTA_HOME=$work/home LOTA_BROKER=packages

passed() { echo "$name: ok: $1"; }
failed() {
    echo "$name: FAILED: $1" >&2
    tail -n 20 "$work/log" >&2 || true
    exit 1
}
end() {
    "$lota" down --apps >/dev/null 2>&1 || true
    docker rm --force --volumes "$container" >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap end EXIT
trap 'exit 130' INT TERM HUP
waits() {
    local limit=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >>"$work/log" 2>&1; do
        [ "$SECONDS" -lt "$limit" ] || failed "$what: not within its time"
        sleep 1
    done
}
[ -x "$lota" ] || { echo "$name: not tested: cargo build --workspace --bins" >&2; exit 69; }
docker image inspect "$image" >/dev/null 2>&1 || { echo "$name: not tested: docker has no $image" >&2; exit 69; }

git init --quiet --initial-branch=main "$work/shop"
commit() {
    echo "$1" >"$work/shop/number"
    git -C "$work/shop" add --all
    git -C "$work/shop" -c user.name=t -c user.email=t@example.org commit --quiet --message "$1"
}
cat >"$work/shop/.lotabots.yaml" <<'Y'
version: 1
build: {steps: [{name: copy, run: sleep 2 && cp number out}], artifacts: [out]}
test: {suites: {unit: {run: "test -s out && printf '1..1\\nok 1 - copied\\n'"}}}
Y
# pushes COUNT: so many commits, one after the other; their ids go to $work/pushed.
pushes() {
    local number
    for number in $(seq "$1"); do
        commit "$(date +%s%N)"
        "$lota" push "$work/shop" 2>>"$work/log" | sed -n 's/^ *id and correlation //p' >>"$work/pushed"
    done
}
# through: everything in $work/pushed was built and tested, as the monitor heard it.
through() {
    while read -r id; do "$lota" show "$id" | grep -q test.completed || return 1; done <"$work/pushed"
}
# waiting: how many messages wait in queues that bots work on.
waiting() {
    python3 - <<'P'
import base64, json, os, urllib.request
home = os.environ["LOTA_HOME"]
fleet = json.load(open(home + "/fleet.json"))
password = open(f"{home}/secrets/{fleet['admin']}.password").read().strip()
authorization = "Basic " + base64.b64encode(f"{fleet['admin']}:{password}".encode()).decode()
request = urllib.request.Request(fleet["management_url"] + "/api/queues/lota", headers={"Authorization": authorization})
queues = json.load(urllib.request.urlopen(request))
print(sum(q.get("messages", 0) for q in queues if q["name"].endswith(".work") or ".retry" in q["name"]))
P
}
rests() { [ "$(waiting)" = 0 ]; }

"$lota" up --detach >"$work/log" 2>&1 || failed 'lota up on the old broker'
pushes 4
waits 180 'pushes on the old broker' through
waits 60 'no message that waits' rests
"$lota" down >>"$work/log" 2>&1 || failed 'lota down'
passed 'on the old broker: 4 of 4 pushes went through, then nothing waited'

# The new broker, beside the old one and empty.
"$lota" provision --broker-files "$work/broker" >>"$work/log" 2>&1
chmod 755 "$work" && chmod -R a+rX "$work/broker/config" && chown -R 10001:10001 "$work/broker/data" "$work/broker/config"
docker run --detach --name "$container" --user 10001:10001 --hostname rabbitmq --cap-drop ALL --ulimit nofile=4096:4096 \
    --memory 1g --publish 127.0.0.1::5672 --publish 127.0.0.1::15672 --tmpfs /var/log/rabbitmq:size=16m,mode=1777 \
    --volume "$work/broker/config:/etc/rabbitmq:ro" --volume "$work/broker/data:/var/lib/rabbitmq" --env HOME=/var/lib/rabbitmq \
    --env LANG=C.UTF-8 --env RABBITMQ_NODENAME=lota@localhost --entrypoint rabbitmq-server "$image" >>"$work/log"
port() { docker port "$container" "$1" | head -n 1 | cut -d : -f 2; }
export LOTA_BROKER_URL=amqp://lota-admin@127.0.0.1:$(port 5672) LOTA_BROKER_PASSWORD_FILE=$work/broker/admin.password
LOTA_BROKER_MANAGEMENT_URL=http://127.0.0.1:$(port 15672)
export LOTA_BROKER_MANAGEMENT_URL
waits 120 'the new broker' "$lota" provision
"$lota" up --detach >>"$work/log" 2>&1 || failed 'lota up on the new broker'
"$lota" topology verify >>"$work/log" 2>&1 || failed 'the new broker lacks something'
: >"$work/pushed"
pushes 3
waits 180 'pushes on the new broker' through
passed 'on RabbitMQ 4, with the same home: 3 of 3 pushes went through'

# A backup is of a fleet that stands; one of its pushes is done again after it was taken back.
"$lota" down >>"$work/log" 2>&1 || failed 'lota down'
tar -C "$work" -cf "$work/backup.tar" home
"$lota" up --detach >>"$work/log" 2>&1 || failed 'lota up after the backup'
: >"$work/pushed"
pushes 2
waits 180 'pushes after the backup' through
"$lota" down >>"$work/log" 2>&1 || failed 'lota down'
rm -rf "$LOTA_HOME" && tar -C "$work" -xf "$work/backup.tar"
"$lota" up --detach >>"$work/log" 2>&1 || failed 'lota up from the backup'
: >"$work/pushed"
pushes 2
waits 180 'pushes after the restore' through
waits 60 'no message that waits' rests
passed 'taken from a backup: 2 of 2 pushes went through'
