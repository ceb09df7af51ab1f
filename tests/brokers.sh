#!/bin/sh
# The tests that look closely at the broker, on series of RabbitMQ that this machine does not have: 4.0 is Debian trixie's,
# 4.3 forky's. Each is unpacked once, by debootstrap as root, into $LOTA_CACHE/brokers/SERIES (370 MB).
set -eu
cache=${LOTA_CACHE:?names the folder of unpacked packages; make sets it}
# Where this machine's own packages come from.
mirror=${LOTA_DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 2>/dev/null | grep -m1 '/debian/*$' || true)}

not_run() { echo "test-brokers: NOT RUN on RabbitMQ $1: $2" >&2; exit 1; }

# One release of Debian with RabbitMQ in it.
unpack() {
    case $1 in
    4.0) suite=trixie ;;
    4.3) suite=forky ;;
    *) not_run "$1" "known are 4.0 and 4.3" ;;
    esac
    [ "$(id -u)" = 0 ] || not_run "$1" "debootstrap unpacks it as root, once: sudo LOTA_CACHE=$cache $0 --unpack $1"
    command -v debootstrap >/dev/null || not_run "$1" "debootstrap is missing (apt-get install debootstrap)"
    [ -n "$mirror" ] || not_run "$1" "no mirror of Debian is known: set LOTA_DEBIAN_MIRROR"
    scripts=/usr/share/debootstrap/scripts
    script=$scripts/$suite
    [ -e "$script" ] || script=$scripts/sid
    echo "test-brokers: unpacking RabbitMQ $1 of Debian $suite into $cache/brokers (half a minute)"
    rm -rf "$cache/brokers/$1.staging"
    mkdir -p "$cache/brokers"
    debootstrap --variant=minbase --include=rabbitmq-server,ca-certificates "$suite" "$cache/brokers/$1.staging" \
        "$mirror" "$script" >"$cache/brokers/$1.log" 2>&1 || not_run "$1" "debootstrap failed, see $cache/brokers/$1.log"
    rm -rf "$cache/brokers/$1.staging"/var/cache/apt/archives/*.deb "$cache/brokers/$1.staging"/var/lib/apt/lists/*
    echo '127.0.0.1 localhost' >"$cache/brokers/$1.staging/etc/hosts"
    mv "$cache/brokers/$1.staging" "$cache/brokers/$1"
}

if [ "${1:-}" = --unpack ]; then
    shift
    for series in "$@"; do unpack "$series"; done
    exit 0
fi

for series in "$@"; do
    [ -e "$cache/brokers/$series/usr/lib/rabbitmq/bin/rabbitmq-server" ] || unpack "$series"
    [ -L /bin ] || not_run "$series" "this machine keeps programs outside of /usr, so another system's cannot stand in"
    map=
    [ "$(id -u)" = 0 ] || map=--map-root-user
    unshare --mount $map true 2>/dev/null || not_run "$series" "neither root nor user namespaces are to be had here"
    echo "test-brokers: RabbitMQ $series"
    LOTA_TEST_RABBITMQ=$series cargo test --locked --package bot-provision --test node
    # All promises on a cluster too, and 10 000 messages through a crash.
    LOTA_TEST_WHOLE=1 LOTA_TEST_RABBITMQ=$series cargo test --locked --package tests --test matrix --test conformance -- --test-threads 2
done
case " $* " in
*" 4.0 "*" 4.3 "*)
    echo "test-brokers: a data folder of RabbitMQ 4.0 in 4.3"
    cargo test --locked --package bot-provision --test node -- --ignored
    ;;
esac
