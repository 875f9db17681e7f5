#!/bin/bash
# Formats the C++ sources with clang-format 16; with --check changes nothing and fails if a file is not formatted.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

clang_format=$(command -v clang-format-16) || { echo "format: clang-format-16 is not installed" >&2; exit 1; }
case ${1:-} in
  '') options=(-i) ;;
  --check) options=(--dry-run --Werror) ;;
  *) echo "usage: scripts/format.sh [--check]" >&2; exit 2 ;;
esac
git ls-files -z '*.h' '*.cc' | xargs -0 --no-run-if-empty "$clang_format" "${options[@]}"
