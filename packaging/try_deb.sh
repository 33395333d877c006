#!/usr/bin/env bash
# Try the Debian package in a clean Debian: install it, start the node, send one study, wait for the results.
# Usage: packaging/try_deb.sh PACKAGE.deb FOLDER   (as root; FOLDER: where the Debian is, or is to be made)
# Prints the seconds that each step took. Needs debootstrap and dcmtk; MIRROR: where Debian's packages come from.
set -euo pipefail
package="$(realpath "${1:?usage: try_deb.sh PACKAGE.deb FOLDER}")"
root="${2:?usage: try_deb.sh PACKAGE.deb FOLDER}"
port=21113 pacs=24242 page=28080 slices=64

step() {
  local began=$SECONDS
  "$2"
  printf '%-40s %4d s\n' "$1" "$((SECONDS - began))"
}
inside=(chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive)
as_node=("${inside[@]}" runuser --user lungnode --)
stop() {
  for job in $(jobs -p); do kill "$job" 2> /dev/null && wait "$job" || true; done
  for place in proc sys; do mountpoint -q "$root/$place" && umount "$root/$place"; done
}
trap stop EXIT

make_debian() {
  [ -d "$root/etc" ] || debootstrap --variant=minbase bookworm "$root" "${MIRROR:-http://deb.debian.org/debian}" > /dev/null
  # OpenVINO asks them how many cores there are
  mountpoint -q "$root/proc" || mount -t proc proc "$root/proc"
  mountpoint -q "$root/sys" || mount -t sysfs -o ro sysfs "$root/sys"
  "${inside[@]}" apt-get -q update > /dev/null
}
install_package() {
  cp "$package" "$root/tmp/lungnode.deb"
  "${inside[@]}" apt-get -q -y --no-install-recommends install /tmp/lungnode.deb > "$root/tmp/apt.log" 2>&1 \
    || { tail "$root/tmp/apt.log" >&2; exit 1; }
  sed -n 's/^lungnode: /  /p' "$root/tmp/apt.log"
}
configure() {
  sed -i -e "s/port: 11112 /port: $port /; s/port: 4242 /port: $pacs /; s/port: 8080 /port: $page /" "$root/etc/lungnode/config.yaml"
  "${as_node[@]}" lungnode config check
}
start_node() {
  "${as_node[@]}" lungnode serve > "$root/tmp/node.log" 2>&1 &
  local node=$!
  until grep -q 'node ready' "$root/tmp/node.log"; do
    kill -0 "$node" || { tail "$root/tmp/node.log" >&2; exit 1; }
    sleep 0.2
  done
}
make_study() {
  "${as_node[@]}" /opt/lungnode/bin/python - <<PYTHON
from datetime import datetime
from pathlib import Path
from node.phantom import phantom_study, phantom_volume
folder = Path("/tmp/study")
folder.mkdir(exist_ok=True)
for number, instance in enumerate(phantom_study(phantom_volume($slices), datetime.now())):
    instance.save_as(folder / f"{number:04}.dcm", enforce_file_format=True)
PYTHON
}
send_study() {
  mkdir -p "$root/tmp/archive"
  storescp --output-directory "$root/tmp/archive" "$pacs" &
  "${as_node[@]}" lungnode send /tmp/study --to "LUNGNODE@127.0.0.1:$port"
  until "${as_node[@]}" lungnode studies list --json | grep -q '"delivered"'; do sleep 1; done
}

step "Debian 12, nothing else in it" make_debian
step "apt install ./lungnode.deb" install_package
step "configuration" configure
step "node started, worker ready" start_node
step "a study of $slices slices made" make_study
step "sent, screened, delivered" send_study
"${as_node[@]}" lungnode studies list
du -sm "$root/opt/lungnode" | sed 's/\t.*/ MB under \/opt\/lungnode/'
find "$root/tmp/archive" -type f -printf '%f, %s bytes\n'
