"""One-use tickets: what a browser's EventSource or WebSocket, which sets no header, opens with.

`?ticket=` works once, within 30 s, for streams and WebSockets only. Redis keeps the credential
sealed under the digest of the ticket; taking it deletes it. A ticket never outlives its credential.
"""

import hashlib
import secrets
import time
from urllib.parse import parse_qsl, urlencode

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from libs.common.context import Caller
from libs.common.errors import UnavailableError
from libs.common.redis import UNAVAILABLE, Redis
from services.gateway.adapters.authenticator import Authenticator
from services.gateway.adapters.exchange import Exchange
from services.gateway.domain.ports import Credential

LIFETIME_S = 30
_PARAMETER = b"ticket="
_NONCE_BYTES = 12
_PLAIN = (
    "key_id", "requests_max", "window_s", "burst", "concurrency_max", "exempt_ip",
    "exempt_routes", "expires_at",
)  # fmt: skip


def ticket_of(exchange: Exchange) -> str:
    """Take the ticket out of the query of a stream or WebSocket; empty when there is none.

    The query goes on without it, so that no service and no log sees it.
    """
    scope = exchange.scope
    query: bytes = scope.get("query_string", b"")
    if _PARAMETER not in query:
        return ""
    is_stream = b"text/event-stream" in exchange.fields.get(b"accept", b"")
    if exchange.method != "WS" and not (exchange.method == "GET" and is_stream):
        return ""
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    found = [value for name, value in pairs if name == "ticket"]
    scope["query_string"] = urlencode([pair for pair in pairs if pair[0] != "ticket"]).encode()
    return found[0] if len(found) == 1 else ""


class Tickets:
    """Makes and redeems tickets."""

    def __init__(self, redis: Redis | None, authenticator: Authenticator, pepper: bytes) -> None:
        self._redis = redis
        self._authenticator = authenticator
        self._seal = AESGCM(HKDF(SHA256(), 32, None, b"gatehouse tickets").derive(pepper))

    async def issue(self, credential: Credential) -> tuple[str, int]:
        """Make a ticket for a verified credential.

        Returns:
            The ticket and the seconds for which it works.

        Raises:
            UnavailableError: Redis is down or not configured.
        """
        ticket = secrets.token_urlsafe(32)
        name = _name(ticket)
        caller = credential.caller
        document = {field: getattr(credential, field) for field in _PLAIN} | {
            "tenant": caller.tenant,
            "principal": caller.principal,
            "scopes": sorted(caller.scopes),
            "marks": credential.marks,
        }
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = nonce + self._seal.encrypt(nonce, orjson.dumps(document), name.encode())
        if self._redis is None:
            raise UnavailableError("Tickets need Redis.")
        try:
            await self._redis.set(name, sealed, ex=LIFETIME_S)
        except UNAVAILABLE as error:
            raise UnavailableError("Tickets need Redis.") from error
        return ticket, LIFETIME_S

    async def redeem(self, ticket: str) -> Credential | None:
        """Give the credential of a ticket, once; None when there is none.

        Raises:
            UnavailableError: Redis is down or not configured.
        """
        if self._redis is None:
            raise UnavailableError("Tickets need Redis.")
        name = _name(ticket)
        try:
            sealed = await self._redis.getdel(name)
        except UNAVAILABLE as error:
            raise UnavailableError("Tickets need Redis.") from error
        if not isinstance(sealed, bytes):
            return None
        try:
            opened = self._seal.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], name.encode())
        except InvalidTag:
            return None  # written by somebody else than a gateway
        document = orjson.loads(opened)
        credential = Credential(
            caller=Caller(document["tenant"], document["principal"], frozenset(document["scopes"])),
            marks=tuple(document["marks"]),
            **{field: document[field] for field in _PLAIN},
        )
        is_over = credential.expires_at is not None and credential.expires_at <= time.time()
        return None if is_over or self._authenticator.is_revoked(credential) else credential


def _name(ticket: str) -> str:
    return "sessions:{" + hashlib.sha256(b"ticket|" + ticket.encode()).hexdigest() + "}"
