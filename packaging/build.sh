#!/usr/bin/env bash
# A tarball and a Debian package of what is checked out, in target/packages. Needs cargo and, for the
# package, dpkg-deb. Run on the oldest system that the result shall run on: it links to that libc.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --quiet --release --locked --package junto-cli
version=$(cargo metadata --no-deps --format-version 1 | python3 -c '
import json, sys
print(next(p["version"] for p in json.load(sys.stdin)["packages"] if p["name"] == "junto-cli"))')
out=target/packages; root=$out/root
rm -rf "$root"; mkdir -p "$root"
install -D -m 755 target/release/junto "$root/usr/bin/junto"
install -D -m 644 packaging/junto-relay.service "$root/usr/lib/systemd/system/junto-relay.service"
install -D -m 644 packaging/junto-relay.sysusers "$root/usr/lib/sysusers.d/junto-relay.conf"
for file in docs/operating/relay.md packaging/relay.toml CHANGELOG.md LICENSE-MIT LICENSE-APACHE; do
  install -D -m 644 "$file" "$root/usr/share/doc/junto/$(basename "$file")"
done
packaging/check.sh "$root/usr/bin/junto"

arch=$(uname -m)
tarball=$out/junto-$version-linux-$arch.tar.gz
# The same input gives the same file.
tar --create --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$(git log -1 --format=%ct)" \
  --directory "$root" --transform "s,^\.,junto-$version," . | gzip -n > "$tarball"
echo "$tarball"

command -v dpkg-deb >/dev/null || { echo "no dpkg-deb: no Debian package"; exit 0; }
libc=$(objdump -T target/release/junto | grep -o 'GLIBC_[0-9.]*' | sed 's/GLIBC_//' | sort -Vu | tail -n 1)
mkdir -p "$root/DEBIAN"
cat > "$root/DEBIAN/control" <<CONTROL
Package: junto
Version: $version
Architecture: $(dpkg --print-architecture)
Maintainer: Junto developers <junto@localhost>
Depends: libc6 (>= $libc)
Recommends: systemd
Section: net
Priority: optional
Installed-Size: $(du -sk --exclude=DEBIAN "$root" | cut -f1)
Description: private place to compute together, and its relay
 Secure sessions between parties who have never met, threshold signatures on top, and
 the relay between them: an SMP server that SimpleX clients can use as well.
CONTROL
cat > "$root/DEBIAN/postinst" <<'POSTINST'
#!/bin/sh
# Makes the relay's user and its empty folder, and tells systemd. Starts nothing: `junto relay init` comes first.
# The folder stays when the package goes: it holds the relay's address.
set -e
if [ "$1" = configure ] && command -v systemd-sysusers >/dev/null; then
  systemd-sysusers junto-relay.conf
  install -d -m 700 -o junto-relay -g junto-relay /var/lib/junto-relay
fi
if [ -d /run/systemd/system ]; then systemctl daemon-reload || true; fi
POSTINST
cat > "$root/DEBIAN/prerm" <<'PRERM'
#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then systemctl disable --now junto-relay.service || true; fi
PRERM
chmod 755 "$root/DEBIAN/postinst" "$root/DEBIAN/prerm"
package=$out/junto_${version}_$(dpkg --print-architecture).deb
dpkg-deb --build --root-owner-group "$root" "$package" >/dev/null
echo "$package"
