#!/bin/bash
# Builds and runs the tests with sanitizers: scripts/sanitize.sh asan|tsan. Other arguments go to ctest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

preset=${1:-}
case $preset in
  asan | tsan) shift ;;
  *) echo "usage: scripts/sanitize.sh asan|tsan [CTEST ARGUMENT]..." >&2; exit 2 ;;
esac
scripts/bootstrap.sh test
cmake --preset "$preset" -DCMAKE_CXX_COMPILER_LAUNCHER=ccache
cmake --build "build/$preset"
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_stack_use_after_return=1} UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
export TSAN_OPTIONS=${TSAN_OPTIONS:-second_deadlock_stack=1:suppressions=$PWD/tests/tsan.supp}
exec ctest --preset "$preset" -j2 "$@"
