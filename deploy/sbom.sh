#!/bin/sh
# Writes what each released program is made of as CycloneDX JSON, target/sbom/<package>.cdx.json; xtask looks whether each
# names its dependencies with their licences. The tool writes beside the manifests, so it works on a copy of the checkout.
set -eu
cd "$(dirname "$0")/.."
tool=$(deploy/tool.sh cargo-cyclonedx 0.5.9)
# The date of the last commit, so that the same source gives the same files.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
tar -cf - --exclude=./target --exclude=./.git --exclude=./.cache . | tar -xf - -C "$work"

(cd "$work" && "$tool" cyclonedx --quiet --format json --spec-version 1.5 --no-build-deps)

# Whoever has compiled xtask already says where it is.
${XTASK:-cargo run --quiet --locked --package xtask --} sbom "$work"
