#!/bin/bash
# deploy/compose.remote.yaml: callers over TCP with certificates and tokens, and those that are refused.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
file=deploy/compose.remote.yaml
every_profile=orchestrator,command
source tests/container/compose_functions.sh
export LISTEN=127.0.0.1: SIMULATE_GPUS=2x1GiB@16MiB MODELS=$work/models CERTIFICATES=$work/certificates

make_checkpoint "$MODELS/tiny"
chmod -R a+rX "$work"
deploy/make-certificates.sh "$CERTIFICATES"
[[ $(stat -c '%a %u' "$CERTIFICATES/server/tls.key") == "600 10001" ]] || fail "the server's key is not its own"

say "scenarios over TLS"
COMPOSE_PROFILES=orchestrator compose up --no-build --exit-code-from orchestrator || fail "the mock client's scenarios failed over TLS"
check_confined orchestrator

unset COMPOSE_PROFILES
compose up -d --no-build
await_healthy keyloadd-tls
check_confined_process keyloadd-tls
call() { compose run --rm -T "$@"; }

call keyload load tiny --from /models/tiny --device-map cuda:0 || fail "a load with a token failed"
say "callers that are refused"
echo guess >"$CERTIFICATES/client/wrong.token"
expect 3 UNAVAILABLE call -e KEYLOAD_TLS_CERT= -e KEYLOAD_TLS_KEY= keyload list
expect 4 TOKEN_MISSING call -e KEYLOAD_TOKEN_FILE= keyload list
TOKEN=wrong expect 4 TOKEN_INVALID call keyload list
TOKEN=read expect 4 ROLE_INSUFFICIENT call keyload load again --from /models/tiny
TOKEN=read expect 0 tiny call keyload list

say "certificates are renewed"
before=$(openssl x509 -in "$CERTIFICATES/server/tls.crt" -noout -serial)
deploy/make-certificates.sh "$CERTIFICATES"
after=$(openssl x509 -in "$CERTIFICATES/server/tls.crt" -noout -serial)
[[ $before != "$after" ]] || fail "the certificate is the same"
address=$(compose port keyloadd-tls 7077)
for ((i = 0; i < 30; ++i)); do
  served=$(openssl s_client -connect "$address" -CAfile "$CERTIFICATES/ca/ca.crt" </dev/null 2>/dev/null | openssl x509 -noout -serial) || true
  [[ $served != "$after" ]] || break
  sleep 1
done
[[ $served == "$after" ]] || fail "the renewed certificate is not served"
expect 0 tiny call keyload list

stop_in_order keyloadd-tls
say "remote passed"
