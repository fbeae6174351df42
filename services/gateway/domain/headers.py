"""Header hygiene in both directions, on lower-case byte names.

Inbound: hop-by-hop fields and those that `Connection` lists go first; then every alias of our own
internal headers (`X_Tenant`, `X.Gatehouse.Identity`, ...), so that no caller can speak for another;
then credentials, which no service needs to see.
"""

from collections.abc import Iterable, Sequence

RawHeaders = Sequence[tuple[bytes, bytes]]

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# Set anew for each upstream call, or meant for the gateway alone.
_REPLACED = frozenset(
    {
        b"host",
        b"content-length",
        b"expect",
        b"authorization",
        b"x-api-key",
        b"cookie",
        b"forwarded",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-proto",
        b"x-forwarded-port",
        b"x-forwarded-prefix",
        b"x-real-ip",
        b"x-original-url",
        b"x-rewrite-url",
        b"x-request-id",
        b"x-correlation-id",
        b"x-request-deadline-ms",
        b"traceparent",
        b"tracestate",
    }
)
_DROPPED_INBOUND = HOP_BY_HOP | _REPLACED
_TENANT_ALIASES = frozenset({b"x-tenant", b"x-tenant-id"})
_DROPPED_OUTBOUND = HOP_BY_HOP | {b"x-request-id", b"server", b"date", b"set-cookie"}
_DASHES = bytes.maketrans(b"_.", b"--")


def connection_listed(headers: RawHeaders) -> frozenset[bytes]:
    """Name the fields that `Connection` declares hop-by-hop."""
    return frozenset(
        name.strip().lower()
        for header, value in headers
        if header == b"connection"
        for name in value.split(b",")
    )


def _is_internal(name: bytes) -> bool:
    mapped = name.translate(_DASHES)
    return mapped.startswith(b"x-gatehouse-") or mapped in _TENANT_ALIASES


def for_upstream(headers: RawHeaders) -> list[tuple[str, str]]:
    """Give the caller's headers that may go on to a service."""
    listed = connection_listed(headers)
    return [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in headers
        if name not in _DROPPED_INBOUND and name not in listed and not _is_internal(name)
    ]


def for_caller(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Give a service's response headers that may go back to the caller."""
    kept = [(name.lower(), value) for name, value in headers]
    listed = connection_listed(kept)
    return [
        (name, value)
        for name, value in kept
        if name not in _DROPPED_OUTBOUND
        and name not in listed
        and not name.startswith(b"x-gatehouse-")
    ]
