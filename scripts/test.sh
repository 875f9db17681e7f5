#!/bin/bash
# Installs and builds what is absent, then runs every test, the container test too where there is Docker. Ends with the
# number of tests of each kind and with what did not run and why. Arguments go to ctest: scripts/test.sh -L unit
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/bootstrap.sh test
scripts/build.sh
readonly results=$PWD/build/release/tests.xml
rm -f "$results" build/release/differential.txt
code=0
ctest --preset release -j"$(nproc)" --output-junit "$results" --test-output-size-passed 10000000 "$@" || code=$?
ctest --preset release --show-only=json-v1 >build/release/tests.json
[[ ! -f $results ]] || /usr/bin/python3 scripts/summarize_tests.py build/release || code=$((code == 0 ? 1 : code))
exit "$code"
