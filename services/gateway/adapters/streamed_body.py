"""The caller's side of a call: a body passed on as it comes, the watch for one who left."""

import asyncio
from collections.abc import AsyncIterator

from services.gateway.adapters.exchange import ClientGoneError, Exchange
from services.gateway.adapters.server_protocol import LEAVERS, Leavers


class StreamedBody:
    """A large body, passed on as it comes and counted."""

    def __init__(self, exchange: Exchange, limit: int) -> None:
        self._exchange = exchange
        self._limit = limit
        length = exchange.fields.get(b"content-length")
        self._is_chunked = length is None
        self.framing = b"content-length: " + length if length else b"transfer-encoding: chunked"
        self.is_read = False

    async def framed(self) -> AsyncIterator[bytes]:
        """Give the parts as they go on the wire, at most the limit in all.

        Raises:
            ReceiptTimeoutError, PayloadTooLargeError, ClientGoneError.
        """
        size, more = 0, True
        while more:
            message = await self._exchange.receive()
            part = self._exchange.part_of(message, size, self._limit)
            size += len(part)
            if part:
                yield b"%x\r\n%b\r\n" % (len(part), part) if self._is_chunked else part
            more = bool(message.get("more_body"))
        self.is_read = True
        if self._is_chunked:
            yield b"0\r\n\r\n"


class CallerWatch:
    """Cancels the running task when its caller leaves before the answer is complete.

    The server's protocol tells; without its list of leavers nobody is watched.
    """

    def __init__(self, exchange: Exchange) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._is_gone = False
        self._leavers: Leavers | None = exchange.scope.get(LEAVERS)
        if self._leavers is not None:
            self._leavers.add(self._on_gone)

    def raise_if_gone(self) -> None:
        """Turn our own cancellation into ClientGoneError."""
        if self._is_gone:
            self._task.uncancel()
            raise ClientGoneError from None

    def stop(self) -> None:
        """End the watch."""
        if self._leavers is not None:
            self._leavers.discard(self._on_gone)

    def _on_gone(self) -> None:
        self._is_gone = True
        self._task.cancel()
