"""HTTP between services: aiohttp, with ids, deadline and a signed identity on each call.

aiohttp retries idempotent methods once by itself on a dropped connection (aiohttp#10790); nothing
else retries here: the gateway is the one layer that does.
"""

import time
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from libs.common.context import current
from libs.common.errors import DeadlineExceededError, UnavailableError
from libs.common.identity import IDENTITY_HEADER, Signer
from libs.common.telemetry import current_traceparent, get_telemetry

# What each hop keeps for itself of the remaining deadline.
HOP_MARGIN_S = 0.005


@dataclass(frozen=True, slots=True)
class Reply:
    """Status, headers and whole body of an answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Parse the body."""
        return orjson.loads(self.body)


class ServiceClient:
    """Calls one other service; one instance per process and target."""

    def __init__(
        self, target: str, base_url: str, signer: Signer | None, *, connections_max: int = 64
    ) -> None:
        self.target = target
        self._base_url = base_url.rstrip("/")
        self._signer = signer
        self._connections_max = connections_max
        self._session: aiohttp.ClientSession | None = None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._connections_max, keepalive_timeout=30),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                auto_decompress=True,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=1),
            )
        return self._session

    async def request(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        body: bytes | None = None,
        content_type: str = "application/json",
        headers: dict[str, str] | None = None,
        timeout_s: float = 5.0,
        tenant: str | None = None,
        scopes: tuple[str, ...] = (),
    ) -> Reply:
        """Call and read the whole answer, within the request's remaining deadline.

        Args:
            method: HTTP method.
            path: path with query, as the target serves it.
            json: body to send as JSON; or give `body` with its `content_type`.
            body: raw body.
            content_type: of `body`.
            headers: further headers.
            timeout_s: bound of this call; the request's deadline can only shorten it.
            tenant: whose data; default the current caller's.
            scopes: what this call needs, signed into the identity.

        Raises:
            UnavailableError: no connection, or it broke.
            DeadlineExceededError: no time left, or the target was too slow.
        """
        context = current()
        remaining = context.remaining_s(timeout_s + HOP_MARGIN_S) - HOP_MARGIN_S
        if remaining <= 0:
            raise DeadlineExceededError(f"No time left to call {self.target}.")
        sent = {
            "x-request-deadline-ms": str(int(remaining * 1000)),
            **({"x-request-id": context.request_id} if context.request_id else {}),
            **({"x-correlation-id": context.correlation_id} if context.correlation_id else {}),
            **(headers or {}),
        }
        if self._signer:
            if tenant is None:
                tenant = context.caller.tenant if context.caller else ""
            sent[IDENTITY_HEADER] = self._signer.header(self.target, tenant=tenant, scopes=scopes)
        if json is not None:
            body = orjson.dumps(json)
        if body is not None:
            sent["content-type"] = content_type
        template = path.partition("?")[0]
        with get_telemetry().span(f"{method} {self.target}", {"url.path": template}, client=True):
            traceparent = current_traceparent() or context.traceparent
            if traceparent:
                sent["traceparent"] = traceparent
            return await self._send(method, path, body, sent, remaining)

    async def _send(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str], remaining: float
    ) -> Reply:
        started = time.monotonic()
        try:
            async with self._open().request(
                method,
                self._base_url + path,
                data=body,
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=remaining, sock_connect=min(1.0, remaining)),
            ) as response:
                payload = await response.read()
                return Reply(response.status, dict(response.headers), payload)
        except TimeoutError as error:
            waited = time.monotonic() - started
            raise DeadlineExceededError(
                f"{self.target} did not answer within {waited * 1e3:.0f} ms."
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise UnavailableError(f"{self.target} cannot be reached.") from error

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None
