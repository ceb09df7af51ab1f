#!/bin/bash
# The fleet of docker-compose.yml, for real, from a clean clone: up, a push through it, what a container may and may not do,
# and that nothing is lost or done twice while containers are killed, the broker restarts and all bots are replaced.
# Compiles nothing: images are made of the programs in target/images. Ends all that it starts.
set -euo pipefail
cd "$(dirname "$0")/../.."
name=compose
export LOTA_BUILD_BOT_MEMORY=768m
. tests/compose/fleet.sh

# Another fleet beside it, as the kernel sees that: many threads of the same user, in a container that no bot sees.
crowd=$(docker run --detach --user 10001:10001 --memory 512m --entrypoint python3 "lotabots/build-bot:$LOTA_VERSION" -c 'import threading, time
for _ in range(3000): threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
time.sleep(3600)')
docker compose up --detach --wait >"$work/up.log" 2>&1 || { tail -n 30 "$work/up.log" >&2; failed 'docker compose up'; }
passed 'docker compose up on a clean clone, all healthy'

said=$(./try 2>/dev/null | tee "$work/try.log") || { cat "$work/try.log" >&2; failed './try'; }
url=$(sed -n 's/^it answers at //p' <<<"$said" | tr -d '\r')
curl --silent --fail --max-time 5 "$url" | grep -q 'shop version 1' || failed "the application does not answer at $url"
curl --silent --fail --max-time 5 "http://127.0.0.1:$LOTA_MONITOR_PORT/api/v1/health" >/dev/null || failed 'the monitor does not answer'
passed "./try: built, tested, deployed, answers at $url"

for bot in build-bot test-bot deploy-bot monitor; do
    in_bot() { docker compose exec -T "$bot" sh -c "$1"; }
    [ "$(in_bot 'id -u')" = 10001 ] || failed "$bot is not an ordinary user"
    in_bot 'grep -q "^CapBnd:.*0000000000000000$" /proc/1/status && grep -q "^NoNewPrivs:.*1$" /proc/1/status' ||
        failed "$bot has privileges"
    own=$bot
    [ "$bot" != monitor ] || own=monitor-bot
    for place in / /usr/bin /etc /fleet /fleet/config "/fleet/secrets/$own" /fleet/secrets/operator; do
        ! in_bot "touch $place/written" 2>/dev/null || failed "$bot writes to $place"
    done
    in_bot 'touch /var/lib/lota/written && rm /var/lib/lota/written' || failed "$bot cannot write to its own volume"
    # Every password that it can read is its own, or the one that it reads the broker's figures with.
    found=$(in_bot 'find /fleet /broker /var/lib/lota -name "*password*" -type f 2>/dev/null | sort | tr "\n" " "')
    [ "$found" = "/fleet/secrets/$own/password " ] ||
        [ "$bot $found" = "monitor /fleet/secrets/lota-metrics/password /fleet/secrets/monitor-bot/password " ] ||
        failed "$bot reads $found"
done
passed 'a bot writes to its own volume alone, and reads no password but its own'

# A bot with all its sandbox says in its heartbeat; in a container landlock is what there is.
curl --silent "http://127.0.0.1:$LOTA_MONITOR_PORT/api/v1/bots" >"$work/bots.json"
[ "$(grep -o '"sandbox":"\(landlock\|bubblewrap\)"' "$work/bots.json" | wc -l)" -ge 3 ] || failed "the sandboxes are $(grep -o '"sandbox":[^,]*' "$work/bots.json" | tr '\n' ' ')"
[ "$(grep -o '"processes_bound":"the container.s control group, [0-9]* together"' "$work/bots.json" | wc -l)" -ge 3 ] ||
    failed "processes are bounded by $(grep -o '"processes_bound":[^}]*' "$work/bots.json" | cut -c 1-90)"
[ "$(docker exec "$crowd" sh -c 'ls /proc/1/task | wc -l')" -gt 3000 ] || failed 'there was no crowd'
docker rm --force "$crowd" >/dev/null
passed "commands are confined beside 3000 threads of the same user, by $(grep -o '"sandbox":"[^"]*"' "$work/bots.json" | sort | uniq -c | tr '\n' ' ')"

lota config apply >"$work/applied" || failed 'lota config apply'
[ "$(grep -c ': configuration [0-9a-f]* of version' "$work/applied")" = 4 ] || failed "lota config apply said $(cat "$work/applied")"
config() { docker compose run --rm -T --no-deps --entrypoint sed lota -i "$1" /fleet/config/test-bot.yaml; }
config '$a nonsense: 1'
! lota config check >"$work/checked" 2>&1 || failed 'lota config check takes nonsense'
grep -q nonsense "$work/checked" || failed "lota config check said $(cat "$work/checked")"
config '$d'
lota config check >"$work/checked" 2>&1 || failed "lota config check said $(cat "$work/checked")"
passed 'lota config apply and check: what bots say of the files that they would start with'

before=$(docker compose ps --quiet build-bot)
! docker compose exec -T build-bot python3 -c 'x = bytearray(2 << 30)' 2>/dev/null || failed 'two GiB fit into 768 MiB'
waits 60 'build-bot after it' docker compose exec -T build-bot bot --health
[ "$(docker compose ps --quiet build-bot)" = "$before" ] || failed 'build-bot is another container'
passed 'what takes more memory than its container has is ended, and the bot goes on'

# Killed at once while each works; what it did goes on afterwards, and is done once.
lota demo --running >"$work/killed.log" 2>&1 &
push=$!
for bot in build-bot test-bot deploy-bot; do
    waits 120 "$bot works" grep -q "$(sed 's/build-bot/build.started/; s/test-bot/test.started/; s/deploy-bot/deploy.started/' <<<"$bot")" "$work/killed.log"
    docker compose kill "$bot" >/dev/null 2>&1
    docker compose start "$bot" >/dev/null 2>&1
done
wait "$push" || { cat "$work/killed.log" >&2; failed 'a push while bots are killed'; }
correlation=$(sed -n 's/^ *id and correlation //p' "$work/killed.log" | tr -d '\r')
events >"$work/events"
for event in build.completed test.completed deploy.completed; do
    grep -q "^$event $correlation 1$" "$work/events" || failed "$event of $correlation is not there once: $(grep "$correlation" "$work/events")"
done
passed 'each bot killed while it worked: one build, one test, one deployment'

load one 12 >"$work/one" &
push=$!
waits 60 'the first push' test -s "$work/one"
wait "$push" || failed 'pushes'
docker compose restart rabbitmq >/dev/null 2>&1
[ "$(wc -l <"$work/one")" = 12 ] || failed "pushed $(wc -l <"$work/one") of 12"
waits 180 'what was pushed before the broker restarted' settled "$work/one"
passed 'docker compose restart rabbitmq: 12 of 12 pushes went through, each once'

load two 20 >"$work/two" &
push=$!
waits 60 'the first push' test -s "$work/two"
for bot in deploy-bot test-bot build-bot monitor; do
    docker compose up --detach --force-recreate --no-deps --wait "$bot" >/dev/null 2>&1 || failed "$bot was not replaced"
done
wait "$push" || failed 'pushes'
waits 180 'what was pushed while all bots were replaced' settled "$work/two"
[ "$(wc -l <"$work/two")" = 20 ] || failed "pushed $(wc -l <"$work/two") of 20"
! grep -q '^message.dead_lettered' "$work/events" || failed "dead letters: $(grep dead_lettered "$work/events")"
curl --silent --fail --max-time 5 --retry 30 --retry-delay 1 --retry-connrefused --retry-all-errors "$url" | grep -q 'shop version 1' ||
    failed 'the application did not come back with its bot'
passed 'all bots replaced under load: 20 of 20 pushes went through, each once; the application is served again'
