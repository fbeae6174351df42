"""An answer of one of our own routes, held back until it is known to be kept."""

from services.gateway.adapters.exchange import Exchange, Message
from services.gateway.adapters.idempotency import StoredAnswer


class Captured:
    """Collects what the app sends, then passes it on."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._status = 0
        self._headers: list[tuple[bytes, bytes]] = []
        self._body = b""
        self._is_complete = False

    @property
    def is_final(self) -> bool:
        """Whether the same request would be answered the same way again."""
        return self._is_complete and self._status < 500

    async def send(self, message: Message) -> None:
        """Be the app's `send`."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = list(message.get("headers", ()))
        else:
            self._body += message.get("body", b"")
            self._is_complete = not message.get("more_body")

    def answer(self) -> StoredAnswer:
        """Give what is kept."""
        media = dict(self._headers).get(b"content-type", b"application/json")
        return StoredAnswer(self._status, media.decode("latin-1"), self._body)

    async def pass_on(self) -> None:
        """Send the answer to the caller."""
        await self._exchange.reply(self._status, self._headers, self._body)
