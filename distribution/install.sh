#!/bin/sh
folder=${1:-$HOME/memcarve} && cd "$(dirname "$0")" && sha256sum --quiet -c SHA256SUMS && python3 -m venv --without-pip "$folder" || exit 1
PYTHONPATH=$(echo wheels/pip-*.whl) "$folder/bin/python" -m pip install -q --no-index --find-links wheels 'memcarve[@EXTRAS@]'
