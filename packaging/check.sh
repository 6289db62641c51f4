#!/usr/bin/env bash
# The unit is well formed, names a command that exists, and stays sandboxed; the Dockerfile names what exists.
# Takes the binary to put in their place.
set -euo pipefail
binary=$(realpath "${1:?usage: check.sh PATH-OF-JUNTO}")
cd "$(dirname "$0")"
./check_image.py "$binary"
command -v systemd-analyze >/dev/null || { echo "packaging: no systemd here, unit not checked"; exit 0; }
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
sed "s|/usr/bin/junto|$binary|; s|^Documentation=.*||" junto-relay.service > "$work/junto-relay.service"
found=$(systemd-analyze verify --man=no --recursive-errors=no "$work/junto-relay.service" 2>&1 || true)
if [ -n "$found" ]; then printf 'packaging: the unit is wrong:\n%s\n' "$found"; exit 1; fi
# 0.0 is no exposure at all, 10.0 an ordinary service; only what a server on the network needs remains.
systemd-analyze security --offline=yes --threshold=20 --no-pager "$work/junto-relay.service" > "$work/security" 2>&1 \
  || { echo "packaging: the unit is not sandboxed enough"; grep -v '✓' "$work/security"; exit 1; }
tail -n 1 "$work/security" | sed 's/^[^A-Za-z]*/packaging: /'
