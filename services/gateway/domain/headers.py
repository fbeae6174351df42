"""Header hygiene in both directions, on lower-case byte names.

Inbound: hop-by-hop fields and those that `Connection` lists go first; then every alias of our own
internal headers (`X_Tenant`, `X.Gatehouse.Identity`, ...), so that no caller can speak for another;
then credentials, which no service needs to see.
"""

from collections.abc import Sequence

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


# Names whose fate is known; what callers send is a small set, and the bound holds for those who
# make names up.
_NAMES_MAX = 2_048
_PASSES_UP: dict[bytes, bool] = {}
_PASSES_DOWN: dict[bytes, tuple[bytes, bool]] = {}


def _passes_up(name: bytes) -> bool:
    """Say whether a caller's field may go on; `name` in lower case."""
    passes = name not in _DROPPED_INBOUND and not _is_internal(name)
    if len(_PASSES_UP) < _NAMES_MAX:
        _PASSES_UP[name] = passes
    return passes


def for_upstream(headers: RawHeaders, connection: bytes | None) -> list[bytes]:
    """Give the caller's headers that may go on to a service, as lines without their end.

    Args:
        headers: lower-case names and values, as received.
        connection: the value of `Connection`, if any: it may list more fields to drop.
    """
    lines = []
    for name, value in headers:
        passes = _PASSES_UP.get(name)
        if passes is None:
            passes = _passes_up(name)
        if passes:
            lines.append(name + b": " + value)
    if connection is not None and connection.lower() not in (b"keep-alive", b"close"):
        listed = connection_listed(headers)
        lines = [line for line in lines if line.partition(b":")[0] not in listed]
    return lines


def _passes_down(name: bytes) -> tuple[bytes, bool]:
    """Give the lower-case name of a service's field, and whether it may go back."""
    lower = name.lower()
    answer = lower, lower not in _DROPPED_OUTBOUND and not lower.startswith(b"x-gatehouse-")
    if len(_PASSES_DOWN) < _NAMES_MAX:
        _PASSES_DOWN[name] = answer
    return answer


def for_caller(headers: RawHeaders) -> list[tuple[bytes, bytes]]:
    """Give a service's response headers that may go back to the caller."""
    kept = []
    lists_more = False
    for name, value in headers:
        lower, passes = _PASSES_DOWN.get(name) or _passes_down(name)
        if passes:
            kept.append((lower, value))
        elif lower == b"connection":
            lists_more = True
    if lists_more:
        listed = connection_listed([(name.lower(), value) for name, value in headers])
        return [(name, value) for name, value in kept if name not in listed]
    return kept
