#!/usr/bin/env bash
# Run the worker's tests in an environment of their own, installed as the README says, with a real Redis.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# a copy: building leaves files beside the source, which others may be using
mkdir "$work/source" && cp -r "$root"/{pyproject.toml,README.md,LICENSE,CHANGELOG.md,distribution,src,integrations} "$work/source/"
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q -c "$here/constraints.txt" pytest "$work/source[disassembly,find,lz4,yara]" \
    "$work/source/integrations/openrelik"
"$work/venv/bin/python" -m pytest -q -p no:cacheprovider -c "$here/pyproject.toml" --rootdir "$here" "$here/tests"
