#!/bin/sh
# usage: tools/venv.sh PYTHON FOLDER; makes or updates the environment that every target uses.
set -u
python=$1
venv=$2
need="Python 3.11 or newer"
hint="or name one: make PYTHON=/path/to/python3.11"

stop() {
    printf 'stop: %s\n' "$1" >&2
    exit 1
}

new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

# An environment whose Python is gone or too old is made anew; any other is kept and updated.
if ! new_enough "$venv/bin/python"; then
    command -v "$python" >/dev/null 2>&1 || stop "'$python' was not found; install $need, $hint"
    new_enough "$python" || stop "'$python' is $("$python" --version 2>&1 || echo broken), and this needs $need; install it, $hint"
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        stop "'$python' cannot make environments; install its venv module (Debian, Ubuntu: python3-venv)"
    rm -rf "$venv"
    echo "== making $venv with $("$python" --version 2>&1)"
    "$python" -m venv "$venv" || stop "could not make the environment $venv; see the lines above"
fi

pip() {
    "$venv/bin/python" -m pip --disable-pip-version-check "$@"
}

# torch comes first and alone, so that no other package's wish can choose its version.
torch=$(sed -n 's/^\(torch==[^ ]*\).*/\1/p' requirements.txt)
echo "== installing $torch (the largest download)"
pip install -c constraints.txt "$torch" ||
    stop "could not install $torch; see the lines above (is a package registry reachable?)"
echo "== installing the pinned requirements"
pip install -c constraints.txt -r requirements-dev.txt ||
    stop "could not install requirements-dev.txt; see the lines above (is a package registry reachable?)"
pip install -q --no-deps --no-build-isolation -e . ||
    stop "could not install this project into $venv; see the lines above"

# The folder's own name: a copied or moved environment still points at the old place.
pwd >"$venv/.installed"
