#!/bin/sh
# Runs cargo and says how long it took. Where no terminal shows its progress bar, a long crate would be silence: a line
# every 15 s says that it goes on. Whoever says so ends with this script, also when that is killed.
set -u
start=$(date +%s)

passed() {
    echo $(($(date +%s) - start))
}

# tell PID: for as long as that process runs.
tell() {
    told=0
    # By single seconds, so that no sleep outlives the build by more.
    while sleep 1 && kill -0 "$1" 2>/dev/null; do
        if [ $(($(passed) - told)) -ge 15 ]; then
            told=$(passed)
            echo "still compiling, $told s" >&2
        fi
    done
}

if [ ! -t 2 ]; then
    tell $$ &
    teller=$!
    trap 'kill "$teller" 2>/dev/null' EXIT
fi
cargo "$@" || exit
echo "compiled in $(passed) s"
