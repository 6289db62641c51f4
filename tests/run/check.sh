#!/usr/bin/env bash
# usage: check.sh JUNTO [CASE...]
#
# Runs programs that know nothing of Junto by `junto run`, each party in a network namespace that reaches the relay only,
# and compares what every party prints with the same program over plain TCP. A CASE is a part of a name that check.py
# lists. Needs python3 (with venv) openssl, and root with iproute2 and nftables; without root all parties share this machine's loopback, and
# what needs namespaces counts as skipped. Installs the programs' packages into the target directory, once.
set -euo pipefail

[ $# -ge 1 ] || { sed -n '2s/^# //p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
junto=$(realpath "$1"); shift
tools=${CARGO_TARGET_DIR:-$here/../../target}/run
"$here/environment.sh" mpyc > /dev/null
# There are wheels of it for some machines and versions of Python only.
"$here/environment.sh" spu > /dev/null || [ -z "${JUNTO_CI:-}" ] || exit 1

work=$(mktemp -d)
prefix=junto-$$-
check=
cleanup() {
  [ -z "$check" ] || { kill "$check" 2> /dev/null || true; wait "$check" || true; }
  # What is left nevertheless.
  if [ "$prefix" ]; then
    for space in $(ip netns list | grep -o "^$prefix[0-9]*"); do
      ip netns pids "$space" | xargs -r kill -9 || true
      ip netns delete "$space" || true
    done
  fi
  rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 143' TERM INT
if [ "$(id -u)" != 0 ] || ! command -v ip > /dev/null || ! ip netns add "${prefix}0" 2> "$work/refused"; then
  # Where it must hold, no permission is a failure.
  [ -z "${JUNTO_CI:-}" ] || { echo "no network namespaces: they need root and iproute2" >&2; cat "$work"/refused* >&2; exit 1; }
  prefix=
else
  ip netns delete "${prefix}0"
fi
python3 "$here/check.py" "$junto" "$tools" "$work" "$prefix" "$@" &
check=$!
wait "$check"
