"""The caller's side of a call: a body passed on as it comes, the watch for one who left."""

import asyncio
from collections.abc import AsyncIterator

from services.gateway.adapters.exchange import ClientGoneError, Exchange, Message

# Most answers come sooner; watching the caller costs a task.
_WATCH_AFTER_S = 0.02


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
    """Cancels the running task when its caller leaves before the answer is complete."""

    def __init__(self, exchange: Exchange, body: bytes | StreamedBody) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._exchange = exchange
        self._body = body
        self._loop = asyncio.get_running_loop()
        self._message: asyncio.Task[Message] | None = None
        self._is_gone = False
        self._timer = self._loop.call_later(_WATCH_AFTER_S, self._start)

    def raise_if_gone(self) -> None:
        """Turn our own cancellation into ClientGoneError."""
        if self._is_gone:
            self._task.uncancel()
            raise ClientGoneError from None

    def stop(self) -> None:
        """End the watch."""
        self._timer.cancel()
        if self._message is not None:
            self._message.remove_done_callback(self._on_message)
            self._message.cancel()

    def _start(self) -> None:
        if isinstance(self._body, StreamedBody) and not self._body.is_read:
            self._timer = self._loop.call_later(_WATCH_AFTER_S, self._start)
            return
        # After the body only http.disconnect can arrive.
        self._message = self._loop.create_task(_receive(self._exchange))
        self._message.add_done_callback(self._on_message)

    def _on_message(self, message: "asyncio.Task[Message]") -> None:
        if not message.cancelled():
            self._is_gone = True
            self._task.cancel()


async def _receive(exchange: Exchange) -> Message:
    return await exchange.receive()
