"""The way back: a service's answer to the caller, in one piece when it is small, else as it comes.

A small JSON answer to GET gets an entity tag of its bytes, so that a caller who has them already is
answered 304; it is never kept by shared caches, because it may differ by caller.
"""

import hashlib

from services.gateway.adapters.exchange import Exchange
from services.gateway.adapters.wire import Answer, Headers
from services.gateway.domain.entity_tag import is_match
from services.gateway.domain.headers import for_caller

# Answers up to this size are read whole before the first byte goes out.
WHOLE_BYTES_MAX = 64 * 1024
_OWN_CACHING = frozenset({b"etag", b"cache-control"})


async def relay(exchange: Exchange, answer: Answer, idle_s: float) -> None:
    """Pass an answer on.

    Raises:
        OSError, TimeoutError: the service broke off, or paused for longer than `idle_s`.
    """
    headers = for_caller(answer.headers)
    if answer.is_head_request or answer.status in (204, 304):
        await exchange.reply(answer.status, headers, b"")
        return
    if answer.length is not None and answer.length <= WHOLE_BYTES_MAX:
        await answer.wait_for_end(idle_s)
    if answer.is_complete:
        data = answer.take()
        if exchange.method == "GET" and answer.status == 200 and _may_tag(headers):
            await _tagged(exchange, headers, data)
        else:
            await exchange.reply(answer.status, headers, data)
        return
    await exchange.start(answer.status, headers)
    while not answer.is_drained:
        if not answer.parts:
            await answer.wait(idle_s)
        if answer.parts:
            await exchange.body(answer.take(), more=True)
    await exchange.body(b"")


def _may_tag(headers: Headers) -> bool:
    is_json = False
    for name, value in headers:
        if name in _OWN_CACHING:
            return False  # the service knows better
        if name == b"content-type":
            is_json = value.startswith(b"application/json")
    return is_json


async def _tagged(exchange: Exchange, headers: Headers, data: bytes) -> None:
    tag = b'"' + hashlib.sha256(data).hexdigest()[:32].encode() + b'"'
    caching = [(b"etag", tag), (b"cache-control", b"private, no-cache")]
    asked = exchange.fields.get(b"if-none-match")
    if asked is not None and is_match(asked, tag):
        await exchange.reply(304, caching, b"")
        return
    await exchange.reply(200, headers + caching, data)
