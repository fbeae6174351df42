#!/bin/sh
# backup.sh POSTGRES_URL DIRECTORY: one consistent dump of Gatehouse's schemas, with its checksum.
# Needs pg_dump of the server's version or newer (PATH, or PG_BIN).
set -eu
if [ $# -ne 2 ]; then
    echo "usage: backup.sh POSTGRES_URL DIRECTORY" >&2
    exit 2
fi
url=$1
directory=$2
bin=${PG_BIN:+$PG_BIN/}
umask 077
mkdir -p "$directory"
name=gatehouse-$(date -u +%Y%m%dT%H%M%SZ).dump
# A draft first: a file without the suffix .part is whole.
"${bin}pg_dump" --format=custom --no-owner --no-privileges --serializable-deferrable \
    --schema=gateway --schema=inference --schema=guardrails --schema=features --schema=analytics --schema=audit \
    --file="$directory/$name.part" "$url"
mv "$directory/$name.part" "$directory/$name"
(cd "$directory" && sha256sum "$name" > "$name.sha256")
echo "$directory/$name"
