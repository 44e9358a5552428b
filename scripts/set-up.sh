# shellcheck shell=sh
# Sourced by demo and check: gets what this machine lacks and says what. Nothing is done twice.
#
# set_up EXTRAS   leaves a virtual environment in .venv with kvctl (editable) and its extras,
#                 for example "test,check" or "", and PATH so that its programs and sbin come first.

# Program, and the Debian package that has it.
kvctl_programs='ip:iproute2 iptables:iptables nft:nftables conntrack:conntrack unshare:util-linux'

say() { printf '%s\n' "$*" >&2; }

fail() {
    say "$1"
    say "Hint: $2"
    exit 4
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

# install PACKAGE...   by apt-get, as root or with sudo; fails with what to do where there is neither.
install() {
    if ! command -v apt-get >/dev/null; then
        fail "Missing: $*" "install these (they are Debian's names) with this system's package manager"
    fi
    if [ "$(id -u)" -ne 0 ] && ! command -v sudo >/dev/null; then
        fail "Missing: $*" "as root: apt-get install $*"
    fi
    say "Installing Debian packages: $*"
    as_root apt-get update -qq >&2
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" >&2
}

# missing PROGRAM:PACKAGE...   the packages of those programs that are not there.
missing() {
    for kvctl_pair in "$@"; do
        command -v "${kvctl_pair%%:*}" >/dev/null || printf '%s\n' "${kvctl_pair#*:}"
    done
}

install_programs() {
    # shellcheck disable=SC2086 # a list of names
    kvctl_missing=$(missing $kvctl_programs)
    # shellcheck disable=SC2086
    [ -z "$kvctl_missing" ] || install $kvctl_missing
}

# install_if_possible PROGRAM:PACKAGE...   what a few tests use, which are skipped without it.
install_if_possible() {
    kvctl_missing=$(missing "$@")
    # shellcheck disable=SC2086
    [ -z "$kvctl_missing" ] || (install $kvctl_missing) || say "Going on without: the tests that use them are skipped"
}

# The first Python in PATH that is new enough and can make virtual environments; empty if there is none.
find_python() {
    for kvctl_name in python3 python3.14 python3.13 python3.12 python3.11; do
        for kvctl_python in $(which -a "$kvctl_name" 2>/dev/null); do
            if "$kvctl_python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
            then
                printf '%s\n' "$kvctl_python"
                return
            fi
        done
    done
}

make_environment() {
    # A virtual environment that was moved, or whose Python has gone, does not run.
    .venv/bin/python -m pip --version >/dev/null 2>&1 && return
    kvctl_python=$(find_python)
    if [ -z "$kvctl_python" ]; then
        install python3 python3-venv
        kvctl_python=$(find_python)
    fi
    [ -n "$kvctl_python" ] || fail "There is no Python 3.11 or newer with venv" "install one, and run this again"
    say "Making a virtual environment in .venv with $kvctl_python"
    "$kvctl_python" -m venv --clear .venv
}

install_kvctl() {
    # What is installed is written down, so that a second run need not ask the registry.
    kvctl_wanted="$1 $(cksum setup.cfg pyproject.toml) $PWD"
    kvctl_stamp=".venv/kvctl-installed-$(printf '%s' "$1" | tr ',' '-')"
    if [ "$(cat "$kvctl_stamp" 2>/dev/null)" = "$kvctl_wanted" ]; then
        return
    fi
    say "Installing kvctl into .venv${1:+, with what its checks need}, by pip"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".${1:+[$1]}" >&2
    printf '%s' "$kvctl_wanted" >"$kvctl_stamp"
}

set_up() {
    # A shell opened with plain su has no sbin in its PATH.
    PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
    install_programs
    make_environment
    install_kvctl "$1"
    PATH="$PWD/.venv/bin:$PATH"
    export PATH
}
