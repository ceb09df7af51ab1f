#!/bin/sh
# binaries.sh FOLDER [PROFILE]: compiles all programs of a fleet once (PROFILE: release) and puts them there without
# symbols, with what each is made of in FOLDER/sbom. Images are made of that folder.
set -eu
cd "$(dirname "$0")/.."
to=$1 profile=${2:-release}
# Addresses that the loader has to correct take 2 MB of a program of 25; packed, a tenth (glibc 2.36, Debian 12).
[ "$profile" = dev ] || export RUSTFLAGS="${RUSTFLAGS:-} -C link-arg=-Wl,-z,pack-relative-relocs"
cargo build --locked --profile "$profile" --workspace --exclude tests --exclude bot-test --bins
from=target/$profile
[ "$profile" != dev ] || from=target/debug
mkdir -p "$to/sbom"
# Every package with a program, by the folders that hold such packages.
for package in crates/bots/* crates/services/* crates/tools/lota; do
    name=$(basename "$package")
    strip -o "$to/$name" "$from/$name"
done
XTASK=$from/xtask deploy/sbom.sh
cp target/sbom/*.cdx.json "$to/sbom/"
