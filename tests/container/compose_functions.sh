# Sourced by the tests that run deploy's compose files. They set `file`, and get a project of their own: compose COMMAND...
# KEYLOAD_IMAGE, KEYLOAD_TEST_IMAGE and KEYLOAD_PROMETHEUS_IMAGE name images that are there.
# shellcheck shell=bash

fail() { echo "container test: $*" >&2; exit 1; }
say() { echo "container test: $*"; }

project=keyload-test-$$
work=$(mktemp -d)
if docker compose version >/dev/null 2>&1; then
  compose_command=(docker compose)
else
  compose_command=(docker-compose)
fi

# No command takes longer unless something hangs.
compose() { timeout -k 10 300 "${compose_command[@]}" -p "$project" -f "$file" "$@"; }

clean_up() {
  COMPOSE_PROFILES=$every_profile compose down -v --remove-orphans >/dev/null 2>&1 || true
  rm -rf "$work"
}
trap clean_up EXIT

# A whole checkpoint with one tensor of 16 bytes.
make_checkpoint() {
  local header='{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'
  mkdir -p "$1"
  # shellcheck disable=SC2059
  { printf "\\x$(printf %02x "${#header}")"; head -c 7 /dev/zero; printf %s "$header"; head -c 16 /dev/zero; } >"$1/model.safetensors"
}

container_of() { compose ps -a -q "$1"; }

# Stops everything; the service must have ended in order.
stop_in_order() {
  local container code
  container=$(container_of "$1")
  compose stop
  code=$(docker inspect --format '{{.State.ExitCode}}' "$container")
  [[ $code == 0 ]] || fail "$1 ended with $code on SIGTERM"
}

await_healthy() {
  local container health
  container=$(container_of "$1")
  for ((i = 0; i < 60; ++i)); do
    health=$(docker inspect --format '{{.State.Health.Status}}' "$container")
    [[ $health != healthy ]] || return 0
    sleep 1
  done
  docker logs "$container" 2>&1 | tail -n 20
  fail "$1 is $health after a minute"
}

# What compose has asked for, of containers that have ended too.
check_confined() {
  local service=$1 found fields='{{.Config.User}} {{with .HostConfig}}{{.ReadonlyRootfs}} {{.CapDrop}} {{.SecurityOpt}} {{.IpcMode}} {{.Privileged}}{{end}}'
  found=$(docker inspect --format "$fields" "$(container_of "$service")")
  [[ $found =~ ^[1-9][0-9]*:[1-9][0-9]*' true [ALL] [no-new-privileges:true] private false'$ ]] || fail "$service runs with: $found"
}

# And what its process finds.
check_confined_process() {
  local service=$1 container status
  check_confined "$service"
  container=$(container_of "$service")
  status=$(docker exec "$container" cat /proc/1/status)
  [[ $(awk '/^Uid:/ {print ($2 && $3 && $4 && $5) ? "others" : "root"}' <<<"$status") == others ]] || fail "$service runs as root"
  [[ $(awk '/^CapBnd:/ {print $2}' <<<"$status") =~ ^0+$ ]] || fail "$service may have capabilities"
  [[ $(awk '/^NoNewPrivs:/ {print $2}' <<<"$status") == 1 ]] || fail "$service may get new privileges"
  [[ $(docker exec "$container" touch /usr/local/x 2>&1) == *"Read-only file system"* ]] || fail "the root of $service can be written to"
}

# expect CODE TEXT COMMAND...: the command ends with CODE and says TEXT.
expect() {
  local code=$1 text=$2 output result=0
  shift 2
  output=$("$@" 2>&1) || result=$?
  [[ $result == "$code" && $output == *"$text"* ]] || { echo "$output"; fail "$* ended with $result and not with $code and \"$text\""; }
}
