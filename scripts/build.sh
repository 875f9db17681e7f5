#!/bin/bash
# Builds the release preset: scripts/build.sh [TARGET]... (everything without one). Needs scripts/bootstrap.sh first.
# Leaves build/release/bin/keyloadd and build/release/bin/keyload.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ ! -f build/release/build.ninja ]]; then
  launcher=()
  if command -v ccache >/dev/null; then launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache); fi
  cmake --preset release "${launcher[@]}"
fi
cmake --build build/release ${1:+--target} "$@"
