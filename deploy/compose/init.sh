#!/bin/sh
# Makes the secrets that compose.yaml mounts, once; run it before the first `docker compose up`.
set -eu
cd "$(dirname "$0")"
umask 077
mkdir -p secrets
new() { # FILE: fresh random text, kept when it exists. Containers read it as another user: the folder guards it.
    [ -s "secrets/$1" ] || head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' > "secrets/$1"
    chmod 0444 "secrets/$1"
}
new postgres_password
new pepper
new grafana_password
new pgadmin_password
[ -e secrets/gemini_api_key ] || : > secrets/gemini_api_key
chmod 0444 secrets/gemini_api_key
[ -s secrets/postgres_url ] || printf 'postgresql://gatehouse:%s@postgres:5432/gatehouse' "$(cat secrets/postgres_password)" > secrets/postgres_url
chmod 0444 secrets/postgres_url
echo "secrets are in $(pwd)/secrets; next: docker compose -f deploy/compose/compose.yaml up --build"
