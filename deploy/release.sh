#!/bin/sh
# release.sh: what is handed out, in target/release-files: the programs with what each is made of, the images, and the
# checksums of all. `docker load` takes the images, and docker-compose.yml runs them without building anything.
set -eu
cd "$(dirname "$0")/.."
deploy/images.sh
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
to=target/release-files
rm -rf "$to" && mkdir -p "$to"
tar -C target/images --sort=name --owner=0 --group=0 --numeric-owner -czf "$to/lotabots-$version-$(uname -m).tar.gz" .
docker compose --profile '*' config --images | sort -u | grep -v rabbitmq | xargs docker save | gzip -n >"$to/lotabots-$version-images.tar.gz"
cp docker-compose.yml .env .env.example "$to/"
mkdir "$to/deploy" && cp -r deploy/compose deploy/postgres "$to/deploy/"
(cd "$to" && find . -type f ! -name SHA256SUMS -exec sha256sum {} + >SHA256SUMS)
ls -l "$to"
