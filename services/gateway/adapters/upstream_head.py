"""Request line and headers of a call to a service, as one piece of bytes.

The caller's headers are copied by name from what may pass; ours are set anew.
"""

from libs.common.errors import InternalError
from libs.common.identity import IDENTITY_HEADER
from services.gateway.adapters.exchange import Exchange
from services.gateway.adapters.streamed_body import StreamedBody
from services.gateway.adapters.wire import Pool
from services.gateway.domain.headers import for_upstream

_BODY_METHODS = frozenset({"POST", "PUT", "PATCH"})
_IDENTITY_NAME = IDENTITY_HEADER.encode()


def request_head(
    exchange: Exchange,
    target: str,
    pool: Pool,
    body: bytes | StreamedBody,
    *,
    remaining_s: float,
    traceparent: str | None,
    identity: str,
    forwarded_hops: int,
) -> bytes:
    """Give the head as sent.

    Args:
        exchange: the admitted request.
        target: raw path with query.
        pool: where it goes.
        body: decides the framing.
        remaining_s: deadline that the service is told.
        traceparent: of our client span; None: of the request.
        identity: the signed identity; empty in open mode.
        forwarded_hops: proxies in front of us whose X-Forwarded-* are passed on.

    Raises:
        InternalError: a line break got into a value; nothing is sent then.
    """
    context, scope, fields = exchange.context, exchange.scope, exchange.fields
    lines = for_upstream(scope["headers"], fields.get(b"connection"))
    if isinstance(body, StreamedBody):
        lines.append(body.framing)
    elif body or exchange.method in _BODY_METHODS:
        lines.append(b"content-length: %d" % len(body))
    peer = scope["client"][0] if scope.get("client") else exchange.address
    scheme = scope["scheme"]
    if forwarded_hops:
        chain = exchange.text(b"x-forwarded-for")
        peer = f"{chain}, {peer}" if chain else peer
        scheme = exchange.text(b"x-forwarded-proto") or scheme
    own = (
        f"{exchange.method} {pool.prefix}{target} HTTP/1.1\r\nhost: {pool.authority}\r\n"
        f"x-forwarded-for: {peer}\r\nx-forwarded-proto: {scheme}\r\n"
        f"x-request-id: {context.request_id}\r\nx-correlation-id: {context.correlation_id}\r\n"
        f"x-request-deadline-ms: {int(remaining_s * 1000)}\r\n"
        f"traceparent: {traceparent or context.traceparent}\r\n"
    ).encode("latin-1")
    lines.append(b"x-forwarded-host: " + fields.get(b"host", b""))
    if identity:
        lines.append(_IDENTITY_NAME + b": " + identity.encode())
    head = own + b"\r\n".join(lines) + b"\r\n\r\n"
    # Every value came out of a parser that refuses line breaks; this is the second lock.
    if head.count(b"\n") != len(lines) + 9 or head.count(b"\r") != len(lines) + 9:
        raise InternalError("A header value holds a line break.")
    return head
