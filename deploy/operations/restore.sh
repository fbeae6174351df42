#!/bin/sh
# restore.sh DUMP POSTGRES_URL: bring a dump into a database that has none of our schemas, all or nothing.
# Needs pg_restore and psql (PATH, or PG_BIN).
set -eu
if [ $# -ne 2 ]; then
    echo "usage: restore.sh DUMP POSTGRES_URL" >&2
    exit 2
fi
dump=$1
url=$2
bin=${PG_BIN:+$PG_BIN/}
if [ ! -f "$dump.sha256" ]; then
    echo "restore: $dump.sha256 is missing; a dump without its checksum is not restored" >&2
    exit 1
fi
if ! (cd "$(dirname "$dump")" && sha256sum --check --quiet "$(basename "$dump").sha256" >&2); then
    echo "restore: $dump is not what backup.sh wrote" >&2
    exit 1
fi
there=$("${bin}psql" "$url" -XAtc "SELECT string_agg(nspname, ' ') FROM pg_namespace WHERE nspname IN ('gateway','inference','guardrails','features','analytics','audit')")
if [ -n "$there" ]; then
    echo "restore: the database already has the schemas: $there. Restore into an empty one." >&2
    exit 1
fi
"${bin}pg_restore" --single-transaction --exit-on-error --no-owner --no-privileges --dbname="$url" "$dump"
echo "restored; next: python -m libs.common.migrations"
