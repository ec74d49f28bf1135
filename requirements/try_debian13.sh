#!/usr/bin/env bash
# Runs the test suite on the TFX 1.21 stack, in a Debian 13 root made for it: for machines whose own glibc is older.
#   sudo requirements/try_debian13.sh [folder, default /tmp/conveyor-debian13] [command, default "make test"]
# Needs root and debootstrap (apt install debootstrap); the folder is kept, and a second call goes on with it.
set -euo pipefail
cd "$(dirname "$0")/.."
root="${1:-/tmp/conveyor-debian13}"
command="${2:-make test}"

if [ ! -e "$root/etc/debian_version" ]; then
  debootstrap --variant=minbase trixie "$root"
fi
# This machine's way to the network: its resolver, and certificates that it trusts and Debian may not know.
cp /etc/resolv.conf /etc/hosts "$root/etc/"
mkdir -p "$root/etc/ssl/certs"
mountpoint -q "$root/proc" || mount -t proc proc "$root/proc"
mountpoint -q "$root/dev" || mount --bind /dev "$root/dev"
trap 'umount "$root/dev" "$root/proc"' EXIT
if [ ! -e "$root/usr/bin/npm" ]; then
  chroot "$root" apt-get update -qq
  chroot "$root" apt-get install -qq -y --no-install-recommends \
    ca-certificates g++ git make npm python3 python3-dev python3-venv </dev/null
fi
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"

# The checkout as it is, without what an earlier call left there but its environment.
mkdir -p "$root/conveyor"
find "$root/conveyor" -mindepth 1 -maxdepth 1 ! -name .venv -exec rm -rf {} +
git ls-files -z --cached --others --exclude-standard | tar --create --null --files-from=- --ignore-failed-read |
  tar --extract --directory "$root/conveyor" --no-same-owner
chroot "$root" env HOME=/root bash -c "cd /conveyor && python3 --version && $command"
