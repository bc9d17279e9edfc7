#!/usr/bin/env bash
# Run the plugin's tests with the oldest release of Volatility 3 that it works on and the newest, or those that are named
# (2.26.0 changed how processes are listed): each in an environment of its own, installed as the README says.
#     bash integrations/volatility3/check.sh [RELEASE...]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
[ $# -gt 0 ] || set -- 2.5.0 2.28.2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# a copy: building leaves files beside the source, which others may be using
mkdir "$work/source" && cp -r "$root"/{pyproject.toml,README.md,LICENSE,CHANGELOG.md,distribution,src,integrations} "$work/source/"
python3 -m venv "$work/pip" # installs into the others
pip="$work/pip/bin/pip"
"$pip" wheel -q --no-deps -w "$work/built" "$work/source" "$work/source/integrations/volatility3"
for release in "$@"; do
    echo "+ Volatility 3 $release"
    python3 -m venv --without-pip "$work/$release"
    "$pip" --python "$work/$release/bin/python" install -q "volatility3==$release" pytest "$work"/built/*.whl
    chosen=()
    [ "$release" = "${!#}" ] || chosen=(-m "not newest") # the last one named is the newest
    "$work/$release/bin/python" -m pytest -q -p no:cacheprovider -c "$here/pyproject.toml" --rootdir "$here" "${chosen[@]}" "$here/tests"
done
