#!/usr/bin/env bash
# usage: check.sh JUNTO
#
# Runs unmodified MPyC programs by `junto run`, for 2, 3 and 5 parties in several orders of start, and compares what
# every party prints with the same program over plain TCP. Needs python3 (with venv); installs MPyC into the target
# directory, once. Processes are ended by their id, folders removed.
set -euo pipefail

[ $# -eq 1 ] || { sed -n '2s/^# //p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
junto=$(realpath "$1")
tools=${CARGO_TARGET_DIR:-$here/../../target}/mpyc
mkdir -p "$tools"
if ! cmp -s "$here/requirements.txt" "$tools/venv/stamp"; then
  rm -rf "$tools/venv"
  python3 -m venv "$tools/venv"
  "$tools/venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
  cp "$here/requirements.txt" "$tools/venv/stamp"
fi
python=$(realpath -s "$tools/venv/bin/python")

work=$(mktemp -d)
started=()
cleanup() {
  for process in "${started[@]}"; do kill "$process" 2>/dev/null || true; done
  wait
  rm -rf "$work"
}
trap cleanup EXIT
cd "$here/programs"

port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
relay=$("$junto" --json relay init --dir "$work/relay" --host 127.0.0.1 --port "$port" \
        | "$python" -c 'import json, sys; print(json.loads(sys.stdin.readline())["address"])')
"$junto" relay start --dir "$work/relay" > "$work/relay.log" 2>&1 &
started+=($!)
for _ in $(seq 100); do "$junto" -q relay status "$relay" > "$work/status" 2>&1 && break; sleep 0.1; done

# Ends with the content of a file once it has some.
await() {
  for _ in $(seq 1200); do [ -s "$1" ] && return; sleep 0.1; done
  echo "nothing in $1" >&2; exit 1
}

# run PARTIES ORDER PROGRAM ARGUMENTS...: ORDER is how the parties start, the host being 1.
run() {
  local parties=$1 order=$2; shift 2
  local name="$1 with $parties"
  timeout 120 "$python" "$@" -M "$parties" --no-log > "$work/plain" 2>&1
  local folder processes=()
  folder=$(mktemp -d "$work/run.XXXXXX")
  # Formed first, by one program; then the order of start is free.
  timeout 120 "$junto" --profile "$folder/p1" --json session new --parties "$parties" --relay "$relay" --name s > "$folder/new" 2>"$folder/new.err" &
  started+=($!); processes+=($!)
  await "$folder/new"
  local link
  link=$(head -n 1 "$folder/new" | "$python" -c 'import json, sys; print(json.loads(sys.stdin.readline())["link"])')
  for party in $(seq 2 "$parties"); do
    timeout 120 "$junto" --profile "$folder/p$party" --json session join "$link" > "$folder/join$party" 2>&1 &
    started+=($!); processes+=($!)
  done
  for process in "${processes[@]}"; do wait "$process"; done
  processes=()
  for party in $order; do
    timeout 180 "$junto" --profile "$folder/p$party" run --session s -- "$python" "$@" --no-log \
      > "$folder/out$party" 2> "$folder/err$party" &
    started+=($!); processes+=($!)
  done
  for process in "${processes[@]}"; do
    wait "$process" || { echo "$name: failed" >&2; tail -n 20 "$folder"/err* >&2; exit 1; }
  done
  for party in $order; do
    diff "$work/plain" "$folder/out$party" >&2 || { echo "$name: another result than over TCP" >&2; exit 1; }
  done
  printf 'mpyc: %s parties: the same as over TCP, %s\n' "$name" "$(tail -n 1 "$work/plain" | cut -c1-40)"
}

run 3 "3 1 2" rounds.py 20
run 2 "2 1" vectors.py 20000
run 3 "1 2 3" vectors.py 5000
run 3 "2 3 1" restarts.py 3
run 2 "1 2" local.py 3
run 5 "5 3 1 4 2" restarts.py 2
