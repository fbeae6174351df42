"""Sends webhooks: one POST, to an address that was checked, without redirects.

The name is resolved once, every address of it is checked, and the connection goes to one of those:
a name that is public when checked and private when used (DNS rebinding) leads nowhere.
"""

import asyncio
import socket
from typing import Literal

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from services.analytics.domain.webhooks import Destinations, is_public, origin_of

Outcome = Literal["delivered", "refused", "rejected", "timeout", "transport"]
SEND_TIMEOUT_S = 5.0


class _RefusedError(OSError):
    """The destination leads to an address that is not public."""


class _CheckedResolver(AbstractResolver):
    """Resolves by the system and gives nothing that is not public, unless it may."""

    def __init__(self) -> None:
        self.may_be_private = False

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Give the addresses of a host.

        Raises:
            _RefusedError: one of them is not public.
        """
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
        addresses = [(str(entry[4][0]), entry[0]) for entry in found]
        if not self.may_be_private and not all(is_public(address) for address, _ in addresses):
            raise _RefusedError("not a public address")
        return [
            ResolveResult(
                hostname=host, host=address, port=port, family=kind, proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address, kind in addresses
        ]  # fmt: skip

    async def close(self) -> None:
        """Nothing is held."""


class WebhookSender:
    """Posts messages to destinations that the allow-list has."""

    def __init__(self, destinations: Destinations, *, timeout_s: float = SEND_TIMEOUT_S) -> None:
        self._destinations = destinations
        self._timeout_s = timeout_s

    async def send(self, url: str, headers: dict[str, str], body: bytes) -> Outcome:
        """Post one message; any 2xx is a delivery, a redirect is not followed."""
        origin = origin_of(url)
        # Asked again with each message: the list may have become shorter since the URL was set.
        if origin is None or not self._destinations.allows(url):
            return "refused"
        resolver = _CheckedResolver()
        resolver.may_be_private = self._destinations.may_be_private(url)
        # The library does not resolve what is an address already.
        if _is_address(origin.host) and not (resolver.may_be_private or is_public(origin.host)):
            return "refused"
        connector = aiohttp.TCPConnector(resolver=resolver, use_dns_cache=False, force_close=True)
        try:
            async with (
                aiohttp.ClientSession(
                    connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
                ) as session,
                session.post(
                    url,
                    data=body,
                    headers={**headers, "content-type": "application/json"},
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(total=self._timeout_s),
                ) as response,
            ):
                return "delivered" if 200 <= response.status < 300 else "rejected"
        except TimeoutError:
            return "timeout"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return "refused" if _is_refusal(error) else "transport"


def _is_address(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
    except OSError:
        return False
    return True


def _is_refusal(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, _RefusedError):
            return True
        error = getattr(error, "os_error", None) or error.__cause__
    return False
