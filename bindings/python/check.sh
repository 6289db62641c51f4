#!/usr/bin/env bash
# usage: check.sh JUNTO [WHEEL]
#
# Installs the Python bindings as their README says, or from a wheel, checks their types, and runs their tests with relays of that JUNTO.
# Needs python3 (with venv), and PyPI for maturin and mypy.
set -euo pipefail

[ $# -ge 1 ] || { sed -n '2s/^# //p' "$0" >&2; exit 2; }
JUNTO=$(realpath "$1"); export JUNTO
wheel=${2:+$(realpath "$2")}
cd "$(dirname "$0")/../.."
target=$(realpath "${CARGO_TARGET_DIR:-target}")
venv=$target/python/fresh
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_QUIET=1

rm -rf "$venv"
python3 -m venv $venv
if [ "$wheel" ]; then
  $venv/bin/pip install "$wheel"
else
  $venv/bin/pip install ./bindings/python
fi
$venv/bin/pip install 'mypy>=1.18,<3'

cd bindings/python
# What is installed, seen as a program that uses it sees it.
(cd tests && MYPYPATH= "$venv/bin/mypy" --config-file ../pyproject.toml --cache-dir "$target/python/mypy" ./*.py ../examples/*.py)
"$venv/bin/mypy" --config-file pyproject.toml --cache-dir "$target/python/mypy" python/junto
"$venv/bin/python" -m unittest discover --start-directory tests
