#!/bin/sh
# images.sh: the fleet's images, of programs that are compiled here once (target/images), and how large each is. What
# docker-compose.yml names is what is built. BINARIES=compiled compiles inside of the image of Rust instead.
set -eu
cd "$(dirname "$0")/.."
docker compose version >/dev/null 2>&1 || {
    echo 'images: docker with its plugin compose is missing: install docker and docker-compose-plugin' >&2
    exit 69
}
export LOTA_BINARIES="${BINARIES:-prebuilt}"
[ "$LOTA_BINARIES" = compiled ] || deploy/binaries.sh target/images
docker compose --profile '*' build --quiet \
    --build-arg VERSION="$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)" \
    --build-arg REVISION="$(git rev-parse HEAD 2>/dev/null || echo unknown)"

bytes() { docker image inspect --format '{{.Size}}' "$1"; }
base=${LOTA_BASE_IMAGE:-debian:trixie-slim}
printf '%-36s %9s %14s\n' image MB "over $base"
docker compose --profile '*' config --images | sort -u | grep -v rabbitmq | while read -r image; do
    over=$((($(bytes "$image") - $(bytes "$base")) / 1000000))
    printf '%-36s %9s %14s\n' "$image" $(($(bytes "$image") / 1000000)) "$over"
    case $image in
        */monitor:*)
            [ "$over" -le 25 ] || { echo "images: a bot that runs no commands may have 25 MB over its base" >&2; exit 1; }
            ;;
    esac
done
