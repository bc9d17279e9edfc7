#!/bin/sh
# install.sh [FOLDER]: makes an environment in FOLDER, by default ~/memcarve, of the wheels beside this script alone
folder=${1:-$HOME/memcarve} python=${PYTHON:-python3}
case $folder in /*) ;; *) folder=$PWD/$folder ;; esac
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' || {
    echo "install.sh: $python is not there, or not 3.11 to 3.14: PYTHON names another" >&2
    exit 1
}
cd "$(dirname "$0")" && sha256sum --quiet -c SHA256SUMS && "$python" -m venv --without-pip "$folder" || exit 1
PYTHONPATH=$(echo wheels/pip-*.whl) "$folder/bin/python" -m pip install -q --no-index --find-links wheels 'memcarve[@EXTRAS@]' || exit 1
echo "installed: $folder/bin/memcarve"
