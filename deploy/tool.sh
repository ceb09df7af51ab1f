#!/bin/sh
# tool.sh NAME VERSION: prints the path of a tool of the Rust world that this workspace calls, at that version. One that is
# installed counts; otherwise it is compiled into the cache, once.
set -eu
name=$1 version=$2
cd "$(dirname "$0")/.."
cache=${LOTA_CACHE:-$PWD/.cache/lota}/cargo

# Some tell their version only as the subcommand of cargo that they are.
has_version() { { "$1" --version || "$1" "${name#cargo-}" --version; } 2>/dev/null | grep -qwF -- "$version"; }

for program in "$(command -v "$name" || true)" "$cache/bin/$name"; do
    if [ -n "$program" ] && [ -x "$program" ] && has_version "$program"; then
        echo "$program"
        exit 0
    fi
done
echo "tool: $name $version is compiled into $cache (a few minutes, once)" >&2
# Quick to compile matters more than quick to run.
if ! CARGO_TARGET_DIR="$cache/target" cargo install --quiet --locked --debug --force --root "$cache" "$name@$version" >&2; then
    echo "tool: $name $version cannot be had: cargo install --locked $name@$version" >&2
    exit 69
fi
rm -rf "$cache/target"
echo "$cache/bin/$name"
