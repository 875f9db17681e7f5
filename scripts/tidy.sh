#!/bin/bash
# Compiles everything with clang's thread-safety analysis as an error and with clang-tidy.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

command -v clang-tidy-16 >/dev/null || { echo "tidy: clang-16 and clang-tidy-16 are not installed" >&2; exit 1; }
scripts/bootstrap.sh build
cmake --preset tidy
exec cmake --build build/tidy
