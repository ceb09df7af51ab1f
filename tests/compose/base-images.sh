#!/bin/sh
# base-images.sh: makes the images that others are made from, where neither they nor a registry are there: Debian by
# debootstrap, RabbitMQ of Debian forky in place of the official image. Needs root and a mirror of packages.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# base IMAGE SUITE PACKAGES CHANGE...
base() {
    image=$1 suite=$2 packages=$3
    shift 3
    if docker image inspect "$image" >/dev/null 2>&1 || docker pull --quiet "$image" >/dev/null 2>&1; then return; fi
    command -v debootstrap >/dev/null || {
        echo "base-images: $image is not here, no registry gives it, and there is no debootstrap: apt-get install debootstrap" >&2
        exit 69
    }
    script=/usr/share/debootstrap/scripts/$suite
    [ -e "$script" ] || script=/usr/share/debootstrap/scripts/sid
    echo "base-images: $image of Debian $suite, by debootstrap" >&2
    debootstrap --variant=minbase --include="$packages" "$suite" "$work/$suite" http://deb.debian.org/debian "$script" >&2
    rm -rf "$work/$suite"/var/cache/apt/archives/*.deb
    tar -C "$work/$suite" -cf - . | docker import "$@" - "$image" >/dev/null
}

path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
base debian:trixie-slim trixie ca-certificates -c "ENV PATH=$path" -c 'CMD ["bash"]'
# Debian's own script of that name insists on its own user; the one below it does not.
base rabbitmq:4-management forky rabbitmq-server,ca-certificates -c "ENV PATH=/usr/lib/rabbitmq/bin:$path" -c 'CMD ["rabbitmq-server"]'
if [ "${1:-}" = postgres ] && ! docker image inspect postgres:17 >/dev/null 2>&1 && ! docker pull --quiet postgres:17 >/dev/null 2>&1; then
    docker build --quiet --tag postgres:17 deploy/postgres >/dev/null
fi
