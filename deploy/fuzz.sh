#!/bin/sh
# fuzz.sh [SECONDS]: every target of fuzz/ for so long (60), beginning with the corpora of the packages. What it finds is
# kept in target/fuzz; a file that breaks a check belongs into the tests/corpus it began with.
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-60}
missing=0
cargo +nightly --version >/dev/null 2>&1 ||
    { missing=1; echo 'missing: a nightly compiler: rustup toolchain install nightly' >&2; }
cargo fuzz --version >/dev/null 2>&1 ||
    { missing=1; echo 'missing: cargo-fuzz: cargo install --locked cargo-fuzz' >&2; }
if [ "$missing" = 1 ]; then
    echo 'the same checks run over tests/corpus with the stable compiler: make test' >&2
    exit 69
fi
for target in fuzz/fuzz_targets/*.rs; do
    name=$(basename "$target" .rs)
    found=target/fuzz/corpus/$name
    mkdir -p "$found"
    begin=$(echo crates/*/*/tests/corpus/"$name")
    echo "$name, $seconds s"
    cargo +nightly fuzz run --fuzz-dir fuzz --target-dir target/fuzz/build "$name" "$found" "$begin" -- \
        -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=10 -artifact_prefix="target/fuzz/$name-"
done
