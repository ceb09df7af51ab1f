#!/bin/sh
# Imports the image that tests of containers run in, where it is missing: busybox, and nothing else. Needs no registry.
set -eu
image=lota-test/tiny:1
for engine in docker podman; do
    if command -v "$engine" >/dev/null && "$engine" info >/dev/null 2>&1; then break; fi
    engine=
done
if [ -z "$engine" ]; then
    echo "tiny-image: no container engine answers: install docker or podman, or start its service" >&2
    exit 1
fi
if "$engine" image inspect "$image" >/dev/null 2>&1; then exit 0; fi
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
mkdir -p "$tree/root/bin" "$tree/root/tmp"
busybox=$(command -v busybox || true)
# One that needs libraries would not start in an image without any.
if [ -z "$busybox" ] || ldd "$busybox" >/dev/null 2>&1; then
    if ! (cd "$tree" && apt-get download -q busybox-static >/dev/null && dpkg -x busybox-static_*.deb deb); then
        echo "tiny-image: no static busybox is installed and none can be fetched: install busybox-static" >&2
        exit 1
    fi
    busybox=$(find "$tree/deb" -type f -path "*/bin/busybox")
fi
cp "$busybox" "$tree/root/bin/busybox"
"$busybox" --list | while read -r name; do
    [ "$name" = busybox ] || ln -s busybox "$tree/root/bin/$name"
done
tar -C "$tree/root" -cf - . | "$engine" import - "$image" >/dev/null
echo "tiny-image: $engine has $image now"
