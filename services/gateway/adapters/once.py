"""Creating requests under an Idempotency-Key: run once, the first answer kept and repeated."""

import asyncio
from collections.abc import Awaitable, Callable

from libs.common.catalog import Route
from libs.common.context import Caller
from services.gateway.adapters.exchange import Exchange, Message, Send
from services.gateway.adapters.idempotency import IdempotentAnswers, StoredAnswer
from services.gateway.adapters.server_protocol import LEAVERS
from services.gateway.domain.creating import is_final

# A larger answer is passed on and not kept.
_KEPT_BYTES_MAX = 256 * 1024


class Once:
    """Runs what creates, at most once per key and body."""

    def __init__(self, answers: IdempotentAnswers) -> None:
        self._answers = answers

    async def run(
        self,
        exchange: Exchange,
        route: Route,
        caller: Caller,
        key: str,
        body: bytes,
        action: Callable[[], Awaitable[None]],
    ) -> None:
        """Answer from the store, or run `action`, keep its answer, and pass it on.

        A caller who leaves meanwhile does not stop it: the answer is kept for the repetition.

        Raises:
            IdempotencyError: the key is in use, or belongs to another body.
            UnavailableError: the store is down, so nothing can be promised.
        """
        stored = await self._answers.begin(caller, route.path, key, body)
        if stored is not None:
            await _replay(exchange, stored)
            return
        captured = _Captured(exchange.send)
        receive, exchange.receive, exchange.send = exchange.receive, _nobody_leaves, captured.send
        exchange.scope.pop(LEAVERS, None)
        try:
            await action()
        finally:
            exchange.receive, exchange.send = receive, captured.onward
            exchange.started = False  # nothing has left this process so far
            answer = captured.answer()
            if answer:
                await self._answers.finish(caller, route.path, key, answer)
            else:
                await self._answers.give_up(caller, route.path, key)
        exchange.started = True
        for message in captured.messages:
            await exchange.send(message)


async def _replay(exchange: Exchange, stored: StoredAnswer) -> None:
    headers = [
        (b"content-type", stored.media_type.encode("latin-1")),
        (b"content-length", str(len(stored.body)).encode()),
        (b"cache-control", b"no-store"),
        (b"idempotent-replayed", b"true"),
    ]
    await exchange.reply(stored.status, headers, stored.body)


async def _nobody_leaves() -> Message:
    """Be the `receive` of a request whose body has been read: no disconnect is ever told."""
    forever: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
    return await forever


class _Captured:
    """Holds an answer back until it is known to be kept."""

    def __init__(self, onward: Send) -> None:
        self.onward = onward
        self.messages: list[Message] = []

    async def send(self, message: Message) -> None:
        """Be the exchange's `send`."""
        self.messages.append(message)

    def answer(self) -> StoredAnswer | None:
        """Give what is to be kept, or None: incomplete, not final, or too large."""
        last = self.messages[-1] if self.messages else {}
        if last.get("type") != "http.response.body" or last.get("more_body"):
            return None
        status: int = self.messages[0]["status"]
        body = b"".join(message.get("body", b"") for message in self.messages[1:])
        if not is_final(status) or len(body) > _KEPT_BYTES_MAX:
            return None
        media = dict(self.messages[0]["headers"]).get(b"content-type", b"application/json")
        return StoredAnswer(status, media.decode("latin-1"), body)
