"""Cross-origin calls: only from origins that settings name, never with cookies.

Callers send their own credential in a header, so no answer allows credentials of the browser.
"""

from collections.abc import Iterable, Mapping

_METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE"
_HEADERS = (
    b"Authorization, Content-Type, Idempotency-Key, X-API-Key, X-Correlation-ID, "
    b"X-Request-Deadline-Ms, X-Request-ID, traceparent"
)
_EXPOSED = (
    b"RateLimit, RateLimit-Policy, Retry-After, X-Request-ID, X-Correlation-ID, traceresponse, "
    b"Idempotent-Replayed, Location"
)
_MAX_AGE_S = b"600"


class Cors:
    """Answers preflights and marks answers, for the origins of a list."""

    def __init__(self, origins: Iterable[str]) -> None:
        self._origins = frozenset(origin.rstrip("/").encode() for origin in origins)

    def is_preflight(self, method: str, fields: Mapping[bytes, bytes]) -> bool:
        """Say whether this is a preflight that we answer at all."""
        return (
            method == "OPTIONS"
            and b"access-control-request-method" in fields
            and fields[b"origin"] in self._origins
        )

    @staticmethod
    def preflight() -> list[tuple[bytes, bytes]]:
        """Give the headers of a preflight's answer; those of `headers` come on top."""
        return [
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-allow-headers", _HEADERS),
            (b"access-control-max-age", _MAX_AGE_S),
        ]

    def headers(self, origin: bytes) -> list[tuple[bytes, bytes]]:
        """Give what goes on every answer to a page of this origin; nothing for others."""
        if not self._origins:
            return []
        if origin not in self._origins:
            return [(b"vary", b"Origin")]
        return [
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", _EXPOSED),
            (b"vary", b"Origin"),
        ]
