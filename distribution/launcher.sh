#!/bin/sh
# memcarve @VERSION@ in a single file: behind this script a folder is packed, with its own Python and libraries. The first
# start unpacks it, and each start runs what was unpacked. The system must have a shell, tar, gzip, tail, and no Python.
# MEMCARVE_UNPACKED is the folder to unpack into; if it is not set, $XDG_CACHE_HOME/memcarve or ~/.cache/memcarve is.
base=$MEMCARVE_UNPACKED
[ -n "$base" ] || base=${XDG_CACHE_HOME:+$XDG_CACHE_HOME/memcarve}
[ -n "$base" ] || base=${HOME:+$HOME/.cache/memcarve}
unpacked=$base/@NAME@
able() { # what another user may have put there is not run
    [ -O "$base" ] && [ -O "$unpacked" ] && [ -x "$unpacked/memcarve" ]
}
start() { # its libraries lie beside it; zlib it needs before it can say so itself
    LD_LIBRARY_PATH=$unpacked/_internal${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} exec "$unpacked/memcarve" "$@"
}
able && start "$@"

hint="MEMCARVE_UNPACKED=FOLDER names a folder to unpack into"
fail() {
    echo "memcarve: $1; $hint" >&2
    exit 1
}
unpack() { # beside the final name, and renamed when whole
    umask 077
    new=$unpacked.$$
    trap 'rm -rf "$new"' EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    mkdir "$new" || exit 1
    tail -c +@OFFSET@ "$0" | gzip -dc | tar -xf - -C "$new" && [ -x "$new/memcarve" ] || exit 1
    [ -e "$unpacked" ] || mv "$new" "$unpacked" || exit 1
    rm -rf "${unpacked:?}/${new##*/}" # another start was faster by a moment
}
[ -n "$base" ] || fail "HOME is not set"
(umask 077 && mkdir -p "$base") || fail "cannot make a folder"
[ -O "$base" ] || fail "$base: belongs to another user"
[ -e "$unpacked" ] || (unpack "$@") || fail "$base: the @SIZE@ MiB of the program could not be unpacked there and run"
able || fail "$unpacked: belongs to another user, was changed, or is where nothing may be run"
start "$@"
