#!/bin/bash
# Builds the release preset into build/release; needs scripts/bootstrap.sh first.
#   scripts/build.sh                    everything, the tests too
#   scripts/build.sh --demo             keyloadd and keyload, without LibTorch, as scripts/demo.sh needs them
#   scripts/build.sh TARGET...          these targets of what is configured; `keyloadd keyload` with LibTorch in a new folder
# A later call adds to an earlier one: what has been built is not built again. With ccache a second clone compiles nothing
# that the first one compiled.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly folder=build/release
targets=()
options=(-DKEYLOAD_BUILD_TESTS=ON -DKEYLOAD_WITH_TORCH=ON)
case ${1:-} in
  '') ;;
  --demo)
    targets=(keyloadd keyload)
    options=(-DKEYLOAD_BUILD_TESTS=OFF -DKEYLOAD_WITH_TORCH=OFF)
    ;;
  -*) echo "usage: scripts/build.sh [--demo | TARGET...]" >&2; exit 2 ;;
  *)
    targets=("$@")
    options=(-DKEYLOAD_BUILD_TESTS=OFF -DKEYLOAD_WITH_TORCH=ON)
    ;;
esac

# So that files of equal content have equal keys in every clone, and headers that are precompiled count by their content.
export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1 CCACHE_SLOPPINESS=pch_defines,time_macros
export CCACHE_STATSLOG=$PWD/$folder/ccache.log

# A folder that is configured keeps what it builds, and gets more if more is asked for.
configure() {
  local option wanted=() launcher=()
  for option in "${options[@]}"; do
    if [[ $option == *=OFF && -f $folder/build.ninja ]]; then continue; fi
    grep -qsxF -- "${option#-D}" <(sed 's/:BOOL=/=/' "$folder/CMakeCache.txt" 2>/dev/null) || wanted+=("$option")
  done
  # Only a preset that is read again takes its newer values to a folder that is configured.
  [[ ${#wanted[@]} -gt 0 || ! -f $folder/build.ninja || CMakePresets.json -nt $folder/build.ninja ]] || return 0
  if command -v ccache >/dev/null; then launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache); fi
  mkdir -p "$folder"
  if ! cmake --preset release "${launcher[@]}" "${wanted[@]}" >"$folder/configure.log" 2>&1; then
    cat "$folder/configure.log" >&2
    echo "build: CMake could not configure $folder; scripts/bootstrap.sh installs what it needs" >&2
    exit 1
  fi
}

# Ninja's lines of progress become one line on a terminal, and one in ten percent elsewhere. Warnings and errors are shown.
show_progress() {
  local terminal=0
  [[ ! -t 1 ]] || terminal=1
  awk -v terminal="$terminal" '
    match($0, /^\[[0-9]+\/[0-9]+\] /) {
      split(substr($0, 2, RLENGTH - 3), step, "/")
      if (terminal) {
        file = $NF
        sub(/.*\.dir\//, "", file)
        printf "\r\033[Kbuild: %d of %d %s", step[1], step[2], substr(file, 1, 50)
      } else if (int(10 * step[1] / step[2]) > tenth) {
        tenth = int(10 * step[1] / step[2])
        printf "build: %d of %d steps\n", step[1], step[2]
      }
      fflush()
      next
    }
    /^ninja: no work to do/ { next }
    {
      if (terminal) printf "\r\033[K"
      print
      fflush()
    }
    END { if (terminal) printf "\r\033[K" }'
}

report() {
  local hits=0 compiled=0
  if [[ -s $CCACHE_STATSLOG ]]; then
    hits=$(grep -cE '^(direct|preprocessed)_cache_hit$' "$CCACHE_STATSLOG") || true
    compiled=$(grep -c '^cache_miss$' "$CCACHE_STATSLOG") || true
  fi
  ((hits + compiled == 0)) ||
    echo "build: compiled $compiled files in $((SECONDS / 60)) min $((SECONDS % 60)) s, took $hits from the compiler cache"
}

configure
rm -f "$CCACHE_STATSLOG"
cmake --build "$folder" ${targets:+--target "${targets[@]}"} | show_progress
report
