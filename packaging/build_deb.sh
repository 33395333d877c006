#!/usr/bin/env bash
# Build the Debian package: a virtual environment under /opt/lungnode, units, configuration as a conffile.
# Usage: packaging/build_deb.sh OUTPUT_FOLDER   (PYTHON: the interpreter that the package is for, /usr/bin/python3)
# PIP_ARGUMENTS is handed to pip, for instance "--no-index --find-links wheels".
set -euo pipefail
source_folder="$(cd "$(dirname "$0")/.." && pwd)"
output="${1:?usage: build_deb.sh OUTPUT_FOLDER}"
python="${PYTHON:-/usr/bin/python3}"
version="$(sed -n 's/^version = "\(.*\)"/\1/p' "$source_folder/pyproject.toml" | head -n 1)"
architecture="$(dpkg --print-architecture)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
root="$work/lungnode_${version}_${architecture}"
home=/opt/lungnode

echo "building lungnode $version for $architecture with $("$python" --version)"
mkdir -p "$root$home" "$root/DEBIAN"
"$python" -m venv --copies "$root$home"
# What an earlier build left in the source folder must not come into the package
printf '[build]\nbuild_base = %s\n' "$work/build" > "$work/setuptools.cfg"
export DIST_EXTRA_CONFIG="$work/setuptools.cfg"
# The virtual environment is built where the package's root is, and told afterwards where it will live
"$root$home/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile \
  --constraint "$source_folder/requirements.lock" ${PIP_ARGUMENTS:-} "$source_folder"
"$root$home/bin/python" -m pip uninstall --quiet --yes pip setuptools 2>/dev/null || true
grep -rlI "$root$home" "$root$home/bin" "$root$home/pyvenv.cfg" | xargs -r sed -i "s|$root$home|$home|g"
find "$root$home" -name __pycache__ -type d -prune -exec rm -rf {} +

# Units, user and folders as `lungnode install-service` lays them out, but where packages put theirs
mkdir -p "$root/lib/systemd/system" "$root/usr/lib/sysusers.d" "$root/usr/lib/tmpfiles.d" "$root/etc/lungnode" "$root/usr/bin"
cp "$source_folder"/systemd/lungnode*.service "$source_folder/systemd/lungnode.target" "$root/lib/systemd/system/"
cp -r "$source_folder/systemd/lungnode-worker@gpu.service.d" "$root/lib/systemd/system/"
cp "$source_folder/systemd/lungnode.sysusers" "$root/usr/lib/sysusers.d/lungnode.conf"
cp "$source_folder/systemd/lungnode.tmpfiles" "$root/usr/lib/tmpfiles.d/lungnode.conf"
sed -e 's|^  path: var  |  path: /var/lib/lungnode  |' \
    -e 's|sqlite:///var/lungnode.db|sqlite:////var/lib/lungnode/lungnode.db|' \
    -e 's|file: var/audit.log|file: /var/lib/lungnode/audit.log|' \
    -e 's|engine_cache: trt_engines/cache|engine_cache: /var/lib/lungnode/engines|' \
    -e "s|^  - models/|  - $home/share/lungnode/models/|" \
    "$source_folder/config.yaml" > "$root/etc/lungnode/config.yaml"
printf '#!/bin/sh\nexport LUNGNODE_CONFIG="${LUNGNODE_CONFIG:-/etc/lungnode/config.yaml}"\nexec %s/bin/lungnode "$@"\n' "$home" > "$root/usr/bin/lungnode"
chmod 0755 "$root/usr/bin/lungnode"
install -D -m 0644 "$source_folder/LICENSE" "$root/usr/share/doc/lungnode/copyright"

for script in postinst prerm postrm; do install -m 0755 "$source_folder/packaging/debian/$script" "$root/DEBIAN/$script"; done
echo /etc/lungnode/config.yaml > "$root/DEBIAN/conffiles"
python_package="$("$python" -c 'import sys; print(f"python3.{sys.version_info[1]}")')"
size="$(du -sk --exclude=DEBIAN "$root" | cut -f1)"
sed -e "s|@VERSION@|$version|; s|@ARCHITECTURE@|$architecture|; s|@SIZE@|$size|; s|@PYTHON@|$python_package|" \
  "$source_folder/packaging/debian/control.in" > "$root/DEBIAN/control"
mkdir -p "$output"
dpkg-deb --root-owner-group -Zxz -z3 --build "$root" "$output/lungnode_${version}_${architecture}.deb"
