#!/bin/sh
# Looks whether what a build needs is there. A shell script because without Rust nothing else of ours can run yet.
# Each missing thing is one line with the command that gets it; exit 69 (unavailable) if there was any.
set -u
cd "$(dirname "$0")/.." || exit 69
missing=0

# say WHAT COMMAND: one line per missing thing.
say() {
    printf 'missing: %s: %s\n' "$1" "$2" >&2
    missing=1
}

# package DEBIAN FEDORA ALPINE ARCH: the command that installs it with the package manager that is here.
package() {
    sudo=''
    [ "$(id -u)" = 0 ] || sudo='sudo '
    if command -v apt-get >/dev/null 2>&1; then
        echo "${sudo}apt-get update && ${sudo}apt-get install -y $1"
    elif command -v dnf >/dev/null 2>&1; then
        echo "${sudo}dnf install -y $2"
    elif command -v apk >/dev/null 2>&1; then
        echo "${sudo}apk add $3"
    elif command -v pacman >/dev/null 2>&1; then
        echo "${sudo}pacman -S --needed $4"
    elif command -v xcode-select >/dev/null 2>&1; then
        echo 'xcode-select --install'
    else
        echo "install $1 with the package manager of this system"
    fi
}

# The compiler's oldest version is told in one place, the workspace's manifest.
oldest=$(sed -n 's/^rust-version = "\([0-9.]*\)".*/\1/p' Cargo.toml)
rustup_line="curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y && . \"\$HOME/.cargo/env\""

# rust_tool NAME: is it there, does it run, is it new enough.
rust_tool() {
    if ! command -v "$1" >/dev/null 2>&1; then
        if [ -x "${HOME:-/nonexistent}/.cargo/bin/$1" ]; then
            say "$1 $oldest or newer in PATH (it is in ~/.cargo/bin)" '. "$HOME/.cargo/env"'
        elif command -v curl >/dev/null 2>&1; then
            say "$1 $oldest or newer" "$rustup_line"
        else
            say "$1 $oldest or newer" "$(package curl curl curl curl) && $rustup_line"
        fi
        return
    fi
    found=$("$1" --version 2>/dev/null | sed -n "s/^$1 \([0-9]*\.[0-9]*\).*/\1/p")
    if [ -z "$found" ]; then
        say "$1 $oldest or newer ($1 --version fails)" 'rustup default stable'
    elif [ "${found%%.*}" -lt "${oldest%%.*}" ] ||
        { [ "${found%%.*}" -eq "${oldest%%.*}" ] && [ "${found#*.}" -lt "${oldest#*.}" ]; }; then
        if command -v rustup >/dev/null 2>&1; then
            say "$1 $oldest or newer (here is $found)" 'rustup update stable && rustup default stable'
        else
            say "$1 $oldest or newer (here is $found)" "$rustup_line"
        fi
    fi
}

# Bots confine and follow processes by means that only Linux has; the client is what else compiles.
if [ "$(uname -s)" != Linux ]; then
    say "Linux (this is $(uname -s), where only the client builds and runs: cargo build --locked --release --package lota)" \
        'run make in a Linux virtual machine or container'
    exit 69
fi
rust_tool cargo
rust_tool rustc
command -v make >/dev/null 2>&1 || say make "$(package make make make make)"
for tool in setpriv setsid; do
    command -v "$tool" >/dev/null 2>&1 || say "$tool" "$(package util-linux util-linux util-linux-misc util-linux)"
done
command -v git >/dev/null 2>&1 || say git "$(package git git git git)"
if ! command -v cc >/dev/null 2>&1; then
    say 'cc, a C compiler' "$(package build-essential 'gcc glibc-devel' build-base base-devel)"
elif ! echo 'int main(void) { return 0; }' | cc -x c -o /dev/null - >/dev/null 2>&1; then
    # A compiler without the C library's headers and start files passes every check but the first link.
    say 'a C compiler that links (cc is here and fails)' "$(package build-essential 'gcc glibc-devel' build-base base-devel)"
fi

# What `lota doctor` looks for, too.
. deploy/needs

# A container's limit counts where it is lower than what the machine has.
memory=$(awk '/^MemAvailable:/ { print int($2 / 1024) }' /proc/meminfo 2>/dev/null)
limit=$(cat /sys/fs/cgroup/memory.max 2>/dev/null || echo max)
case $limit in
    *[!0-9]* | '') ;;
    *) [ $((limit / 1048576)) -ge "${memory:-0}" ] || memory=$((limit / 1048576)) ;;
esac
if [ -n "$memory" ] && [ "$memory" -lt "$memory_mib" ]; then
    say "memory: $memory MiB are available, $memory_mib are needed" \
        'end other programs (ps aux --sort=-rss | head shows the largest), or give this machine or container more'
fi

# folder PATH MIB WHAT-FOR ELSE: is so much free there, and what else helps.
folder() {
    free=$(df -Pk "$1" 2>/dev/null | awk 'NR == 2 { print int($4 / 1024) }')
    if [ -n "$free" ] && [ "$free" -lt "$2" ]; then
        say "disk: $free MiB are free in $1, $2 are needed$3" \
            "delete what is not needed (du -xh --max-depth=2 $1 | sort -h | tail shows the largest), or $4"
    fi
}

if [ -x target/demo/lota ]; then
    folder "$PWD" "$disk_mib" '' 'move this checkout to a larger disk'
else
    folder "$PWD" $((disk_mib + compile_disk_mib)) ' for the first compile and a fleet' 'move this checkout to a larger disk'
fi
folder "${TMPDIR:-/tmp}" "$disk_mib" ' for the demo' 'name a folder on a larger disk in TMPDIR'

[ "$missing" = 0 ] || exit 69
