#!/bin/bash
# Builds keyload, installs the peers, makes the data, measures, and writes build/bench/results.* and docs/benchmarks.md.
#   scripts/benchmark.sh                              7 runs of everything: about an hour, 12 GB of disk for data
#   scripts/benchmark.sh --quick --groups plan,small  3 runs of some; docs/benchmarks.md is left alone
# Other arguments go to bench/peers/run.py: --runs N, --data DIR, --huge-pages (as root), --report-only, --help.
# KEYLOAD_BENCH_VENV: where the peers are (build/bench-venv, 5 GB).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly venv=${KEYLOAD_BENCH_VENV:-build/bench-venv}

install_peers() {
  local stamp
  stamp=$venv/keyload-$(cat bench/peers/requirements*.txt | sha256sum | cut -c1-16)
  [[ -f $stamp ]] && return
  echo "benchmark: installing the peers into $venv"
  [[ -x $venv/bin/python ]] || /usr/bin/python3 -m venv "$venv"
  "$venv/bin/python" -m pip install -q --disable-pip-version-check -r bench/peers/requirements.txt
  "$venv/bin/python" -m pip install -q --disable-pip-version-check --no-deps --upgrade \
    --target "$venv/transformers4" -r bench/peers/requirements-transformers4.txt
  touch "$stamp"
}

page=(--page docs/benchmarks.md)
for argument in "$@"; do
  case $argument in --quick|--groups*|--help) page=() ;; esac
done
scripts/bootstrap.sh build
scripts/build.sh keyloadd keyload
install_peers
exec "$venv/bin/python" -B bench/peers/run.py "${page[@]}" "$@"
