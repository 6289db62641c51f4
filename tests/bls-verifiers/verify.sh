#!/usr/bin/env bash
# usage: verify.sh FILE
#
# Checks the JSON of `junto demo --json` (public_key, message, signature) with two BLS libraries that
# are not ours: py_ecc from PyPI and @noble/curves from npm. Each must accept the signature and
# refuse it for a changed message, key and signature. Needs python3 (with venv), node and npm;
# installs the libraries into the target directory, once.
set -euo pipefail

[ $# -eq 1 ] || { sed -n '2s/^# //p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
result=$(realpath "$1")
tools=${CARGO_TARGET_DIR:-$here/../../target}/bls-verifiers
mkdir -p "$tools"

# A library is installed when its stamp equals the pinned list.
if ! cmp -s "$here/requirements.txt" "$tools/venv/stamp"; then
  rm -rf "$tools/venv"
  python3 -m venv "$tools/venv"
  "$tools/venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
  cp "$here/requirements.txt" "$tools/venv/stamp"
fi
if ! cmp -s "$here/package.json" "$tools/node/stamp"; then
  rm -rf "$tools/node"
  mkdir -p "$tools/node"
  cp "$here/package.json" "$tools/node/package.json"
  npm install --prefix "$tools/node" --silent --no-audit --no-fund --ignore-scripts
  cp "$here/package.json" "$tools/node/stamp"
fi
# Node resolves a module from the place of the script that imports it.
cp "$here/verify.mjs" "$tools/node/verify.mjs"

"$tools/venv/bin/python" "$here/verify.py" < "$result"
node "$tools/node/verify.mjs" < "$result"
