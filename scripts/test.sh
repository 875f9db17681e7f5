#!/bin/bash
# Installs and builds what is absent, then runs every test, the container test included where there is Docker.
# Arguments go to ctest: scripts/test.sh -L unit
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/bootstrap.sh test
scripts/build.sh
docker info >/dev/null 2>&1 || echo "container test skipped: no Docker"
summary=build/release/differential.txt
rm -f "$summary"
code=0
ctest --preset release -j2 "$@" || code=$?
[[ ! -f $summary ]] || cat "$summary"
exit "$code"
