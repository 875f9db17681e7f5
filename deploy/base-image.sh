#!/bin/bash
# Makes sure that a Debian 12 image to build on exists and prints its name as the last line: debian:bookworm-slim where it
# is present or can be pulled, else keyload-base:bookworm, made here with debootstrap from this machine's own apt mirror.
# Needs Docker; the second way needs root and debootstrap.
set -euo pipefail

readonly official=debian:bookworm-slim
readonly local_image=keyload-base:bookworm

log() { echo "base-image: $*" >&2; }

present() { docker image inspect "$1" >/dev/null 2>&1; }

# The first URI of a Debian archive (not the security one) that apt on this machine is configured with.
apt_mirror() {
  apt-get indextargets --format '$(SITE) $(RELEASE) $(CREATED_BY)' 2>/dev/null |
    awk '$2 ~ /^bookworm$/ && $3 == "Packages" && $1 !~ /security/ {print $1; exit}'
}

# What a build inside the image needs to reach the outside the way this machine does: mirrors, proxy, certificates.
copy_network_settings() {
  local root=$1
  mkdir -p "$root/usr/local/share/ca-certificates" "$root/etc/ssl/certs" "$root/etc/apt/sources.list.d"
  if compgen -G '/usr/local/share/ca-certificates/*.crt' >/dev/null; then
    cp /usr/local/share/ca-certificates/*.crt "$root/usr/local/share/ca-certificates/"
  fi
  if [[ -f /etc/ssl/certs/ca-certificates.crt ]]; then
    cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
    printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' >"$root/etc/pip.conf"
    printf 'Acquire::https::CaInfo "/etc/ssl/certs/ca-certificates.crt";\n' >"$root/etc/apt/apt.conf.d/80certificates"
  fi
  : >"$root/etc/apt/sources.list"
  [[ ! -s /etc/apt/sources.list ]] || cp /etc/apt/sources.list "$root/etc/apt/sources.list"
  cp /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list "$root/etc/apt/sources.list.d/" 2>/dev/null || true
  apt-config dump | grep -E '^Acquire::(https?::Proxy|Check-)' >"$root/etc/apt/apt.conf.d/81acquire" || true
}

# As in Debian's own slim images: no documentation, and no fsync for each file of a layer that is thrown away on a crash.
make_slim() {
  local root=$1
  echo force-unsafe-io >"$root/etc/dpkg/dpkg.cfg.d/80unsafe-io"
  printf 'path-exclude /usr/share/%s/*\n' doc info locale man >"$root/etc/dpkg/dpkg.cfg.d/81slim"
  rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,info,locale,man}
}

build() {
  local mirror work sudo=()
  [[ $EUID -eq 0 ]] || sudo=(sudo)
  if ! command -v debootstrap >/dev/null; then
    "${sudo[@]}" apt-get install -y --no-install-recommends debootstrap >&2
  fi
  mirror=$(apt_mirror)
  [[ -n $mirror ]] || { log "apt on this machine has no bookworm mirror configured"; exit 1; }
  work=$(mktemp -d)
  # shellcheck disable=SC2064
  trap "${sudo[*]} rm -rf '$work'" EXIT
  log "debootstrap of a minimal bookworm"
  "${sudo[@]}" debootstrap --variant=minbase --include=ca-certificates bookworm "$work/root" "$mirror" >"$work/log" 2>&1 ||
    { tail -20 "$work/log" >&2; exit 1; }
  "${sudo[@]}" bash -c "$(declare -f copy_network_settings make_slim)
    copy_network_settings '$work/root' && make_slim '$work/root'"
  "${sudo[@]}" tar -C "$work/root" -c . | docker import --change 'CMD ["bash"]' - "$local_image" >&2
}

if present "$official"; then
  echo "$official"
elif present "$local_image"; then
  echo "$local_image"
elif timeout 60 docker pull -q "$official" >&2; then
  echo "$official"
else
  log "$official is not present and cannot be pulled"
  build
  echo "$local_image"
fi
