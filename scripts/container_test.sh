#!/bin/bash
# Builds the images, looks at them, and runs the compose files of deploy: tests/container. Ends with 77 where there is no Docker.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly max_image_bytes=750000000

if ! docker info >/dev/null 2>&1; then
  echo "container test skipped: no Docker"
  exit 77
fi
if ! docker compose version >/dev/null 2>&1 && ! command -v docker-compose >/dev/null; then
  echo "container test skipped: no docker-compose"
  exit 77
fi

fail() { echo "container test: $*" >&2; exit 1; }

BASE=$(deploy/base-image.sh | tail -n 1)
export BASE KEYLOAD_IMAGE=keyload:container-test KEYLOAD_TEST_IMAGE=keyload-test:container-test \
  KEYLOAD_PROMETHEUS_IMAGE=keyload-prometheus:container-test
# The host's network, because its resolver and proxy are what the base image is set up for.
build() { docker build --network host --build-arg "BASE=$BASE" "$@"; }
build --target runtime -t "$KEYLOAD_IMAGE" .
build --target test -t "$KEYLOAD_TEST_IMAGE" .
build -t "$KEYLOAD_PROMETHEUS_IMAGE" deploy/prometheus

bytes=$(docker image inspect --format '{{.Size}}' "$KEYLOAD_IMAGE")
echo "container test: the image has $((bytes / 1000000)) MB"
((bytes < max_image_bytes)) || fail "the image is larger than $((max_image_bytes / 1000000)) MB"
[[ $(docker image inspect --format '{{.Config.User}}' "$KEYLOAD_IMAGE") == 10001:10001 ]] || fail "the image does not run as 10001"
if docker run --rm --network none --entrypoint find "$KEYLOAD_IMAGE" / -xdev -name 'libtorch_cuda*' | grep .; then
  fail "the image holds LibTorch's CUDA half"
fi

tests/container/compose_test.sh
tests/container/remote_test.sh
echo "container test: passed"
