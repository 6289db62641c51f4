#!/usr/bin/env bash
# usage: environment.sh NAME
#
# Makes a virtual environment with the packages that the programs in the folder NAME need, once, in the target directory. Prints its place.
set -euo pipefail

[ $# -eq 1 ] || { sed -n '2s/^# //p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
tools=${CARGO_TARGET_DIR:-$here/../../target}/run
wanted=$here/$1/requirements.txt venv=$tools/$1
mkdir -p "$tools"
# Tests of several kinds ask for it, and may do so at once.
exec 9> "$venv.lock"
if command -v flock > /dev/null; then flock 9; fi
if ! cmp -s "$wanted" "$venv/stamp"; then
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: -r "$wanted" >&2 || { rm -rf "$venv"; exit 1; }
  cp "$wanted" "$venv/stamp"
fi
realpath "$venv"
