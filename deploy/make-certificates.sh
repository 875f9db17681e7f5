#!/bin/bash
# Makes an authority, certificates and tokens for keyloadd over TCP, to try it or for a private network:
#   deploy/make-certificates.sh DIR [HOST]...
# HOST: names and addresses that clients reach the daemon by, besides localhost, 127.0.0.1 and keyloadd. Leaves
#   DIR/ca      ca.crt and ca.key: for nobody but this script
#   DIR/server  tls.crt tls.key ca.crt tokens: what the daemon reads
#   DIR/client  tls.crt tls.key ca.crt read.token load.token admin.token: what its callers read
# Run again, it renews both certificates and keeps the authority and the tokens. The daemon takes them without a restart.
# Keys and tokens are for their owner alone: SERVER_OWNER and CLIENT_OWNER, 10001:10001 as in the image. Needs openssl, and
# root or sudo where the owners are others than the caller.
set -euo pipefail

readonly server_owner=${SERVER_OWNER:-10001:10001} client_owner=${CLIENT_OWNER:-10001:10001}
readonly days=${DAYS:-90} ca_days=3650
readonly directory=${1:?usage: deploy/make-certificates.sh DIR [HOST]...}
shift
readonly hosts=(localhost 127.0.0.1 keyloadd "$@")
umask 077

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

as_root() { if [[ $EUID -eq 0 ]]; then "$@"; else sudo "$@"; fi; }

# Puts FILE in place in one step, so that nobody reads half of it.
publish() {
  local file=$1 target=$2 owner=$3 mode=$4
  if [[ $owner == "$(id -u):$(id -g)" ]]; then
    install -m "$mode" "$file" "$target.new"
    mv "$target.new" "$target"
  else
    as_root install -o "${owner%:*}" -g "${owner#*:}" -m "$mode" "$file" "$target.new"
    as_root mv "$target.new" "$target"
  fi
}

make_key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:prime256v1 -out "$1"; }

make_authority() {
  [[ ! -f $directory/ca/ca.key ]] || return 0
  make_key "$work/ca.key"
  openssl req -x509 -new -key "$work/ca.key" -days "$ca_days" -subj "/CN=keyload authority" \
    -addext keyUsage=critical,keyCertSign,cRLSign -out "$work/ca.crt"
  install -m 0600 "$work/ca.key" "$directory/ca/ca.key"
  install -m 0644 "$work/ca.crt" "$directory/ca/ca.crt"
}

# issue NAME USAGE NAMES: NAME.key and NAME.crt in $work
issue() {
  local name=$1 usage=$2 alternative_names=$3
  make_key "$work/$name.key"
  openssl req -new -key "$work/$name.key" -subj "/CN=$name" -out "$work/$name.csr"
  printf 'basicConstraints=critical,CA:false\nextendedKeyUsage=%s\nsubjectAltName=%s\n' "$usage" "$alternative_names" \
    >"$work/$name.ext"
  openssl x509 -req -in "$work/$name.csr" -CA "$directory/ca/ca.crt" -CAkey "$directory/ca/ca.key" \
    -set_serial "0x$(openssl rand -hex 16)" -days "$days" -extfile "$work/$name.ext" -out "$work/$name.crt" 2>/dev/null
}

names() {
  local host result=
  for host in "${hosts[@]}"; do
    if [[ $host =~ ^[0-9.]+$ || $host == *:* ]]; then result+=",IP:$host"; else result+=",DNS:$host"; fi
  done
  echo "${result#,}"
}

# The daemon gets a name, a role and a digest for each token, the callers the token.
make_tokens() {
  local role
  [[ ! -f $directory/server/tokens ]] || return 0
  for role in read load admin; do
    openssl rand -hex 32 >"$work/$role.token"
    echo "$role-client $role $(tr -d '\n' <"$work/$role.token" | sha256sum | cut -d ' ' -f 1)" >>"$work/tokens"
    publish "$work/$role.token" "$directory/client/$role.token" "$client_owner" 0600
  done
  publish "$work/tokens" "$directory/server/tokens" "$server_owner" 0600
}

install -d -m 0700 "$directory/ca"
install -d -m 0755 "$directory" "$directory/server" "$directory/client"
make_authority
issue server serverAuth "$(names)"
issue client clientAuth DNS:client
for side in server client; do
  owner=${side}_owner
  publish "$directory/ca/ca.crt" "$directory/$side/ca.crt" "${!owner}" 0644
  publish "$work/$side.key" "$directory/$side/tls.key" "${!owner}" 0600
  publish "$work/$side.crt" "$directory/$side/tls.crt" "${!owner}" 0644
done
make_tokens
echo "certificates for $days days in $directory"
