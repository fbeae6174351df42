"""Verification keys of an external issuer, from its JSON Web Key Set.

One fetch at a time; a set is renewed in the background at four fifths of its life, an unknown key
id causes at most one fetch per 30 s, and a set that cannot be renewed serves for a day. Addresses
come from settings only: https, no redirects, and no private address outside development. The
resolver's answer is what is connected to, so a second look-up cannot point elsewhere.
"""

import asyncio
import socket
import time
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import jwt
import orjson
from aiohttp.abc import AbstractResolver, ResolveResult

from libs.common.errors import UnavailableError
from libs.common.logging import get_logger

log = get_logger()

LIFE_S = 600.0
RENEW_AT = 0.8
STALE_S = 24 * 3_600.0
UNKNOWN_EVERY_S = 30.0
_BYTES_MAX = 64 * 1024
_KEYS_MAX = 100
_NEGATIVE_MAX = 1_000
_TIMEOUT_S = 3.0


class UnsafeAddressError(ValueError):
    """The address is not one that the gateway may fetch from."""


def is_public(address: str) -> bool:
    """Say whether an IP address is one of the public internet, also when mapped into IPv6."""
    parsed = ip_address(address)
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_global and not (mapped or parsed).is_multicast


class PublicResolver(AbstractResolver):
    """Resolves names and gives public addresses only."""

    def __init__(self) -> None:
        self._inner = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Resolve; OSError when nothing public is left."""
        found = await self._inner.resolve(host, port, family)
        public = [entry for entry in found if is_public(entry["host"])]
        if not public:
            raise OSError("the name has no public address")
        return public

    async def close(self) -> None:
        """Close the inner resolver."""
        await self._inner.close()


class Fetcher:
    """Fetches small JSON documents from addresses that settings name."""

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private
        self._session: aiohttp.ClientSession | None = None

    async def json(self, url: str) -> Any:
        """Fetch and parse a document.

        Raises:
            UnsafeAddressError: not https, or a private address.
            OSError, TimeoutError, aiohttp.ClientError, ValueError: no usable answer.
        """
        self._check(url)
        if self._session is None:
            resolver = None if self._allow_private else PublicResolver()
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=resolver, limit=4),
                timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S),
                trust_env=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        async with self._session.get(url, allow_redirects=False) as answer:
            if answer.status != 200:
                raise ValueError("the document is not there")
            body = await answer.content.read(_BYTES_MAX + 1)
            while len(body) <= _BYTES_MAX and (more := await answer.content.readany()):
                body += more
        if len(body) > _BYTES_MAX:
            raise ValueError("the document is too large")
        return orjson.loads(body)

    def _check(self, url: str) -> None:
        parts = urlsplit(url)
        if self._allow_private:
            return
        if parts.scheme != "https" or parts.username or not parts.hostname:
            raise UnsafeAddressError("only https addresses are fetched")
        try:
            literal = is_public(parts.hostname)
        except ValueError:
            return  # a name: the resolver decides
        if not literal:
            raise UnsafeAddressError("a private address is not fetched")

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()


class RemoteKeys:
    """Implements KeySource for one issuer."""

    def __init__(
        self,
        issuer: str,
        jwks_uri: str | None,
        fetcher: Fetcher,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issuer = issuer
        self._uri = jwks_uri
        self._fetcher = fetcher
        self._now = now
        self._keys: dict[str, Any] = {}
        self._unknown: set[str] = set()
        self._loaded_at: float | None = None
        self._tried_at: float | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._works = True

    async def find(self, kid: str) -> Any | None:
        """Give the key of that id, or None; raises UnavailableError when none could be fetched."""
        now = self._now()
        age = None if self._loaded_at is None else now - self._loaded_at
        if age is not None and age > STALE_S:
            self._keys, age = {}, None
        key = self._keys.get(kid)
        if key is not None:
            if age is not None and age > LIFE_S * RENEW_AT and self._may_try(now):
                self._start()
            return key
        if kid not in self._unknown and self._may_try(now):
            await asyncio.shield(self._start())
            key = self._keys.get(kid)
            if key is None and self._works and len(self._unknown) < _NEGATIVE_MAX:
                self._unknown.add(kid)
        elif self._fetching and not self._fetching.done():
            await asyncio.shield(self._fetching)
            key = self._keys.get(kid)
        if key is None and not self._keys:
            raise UnavailableError("The keys of this issuer cannot be fetched.")
        return key

    def _may_try(self, now: float) -> bool:
        return self._tried_at is None or now - self._tried_at >= UNKNOWN_EVERY_S

    def _start(self) -> "asyncio.Task[None]":
        if self._fetching is None or self._fetching.done():
            self._tried_at = self._now()
            self._fetching = asyncio.create_task(self._fetch())
        return self._fetching

    async def _fetch(self) -> None:
        try:
            if self._uri is None:
                found = await self._fetcher.json(
                    f"{self._issuer.rstrip('/')}/.well-known/openid-configuration"
                )
                if found.get("issuer") != self._issuer:
                    raise ValueError("the configuration names another issuer")
                self._uri = str(found["jwks_uri"])
            document = await self._fetcher.json(self._uri)
            self._keys = _parsed(document)
            self._unknown.clear()
            self._loaded_at = self._now()
            self._note(works=True)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, AttributeError):
            self._note(works=False)

    def _note(self, *, works: bool) -> None:
        if works != self._works:
            self._works = works
            host = urlsplit(self._issuer).hostname
            log.warning("issuer keys changed", url_host=host, state="fetched" if works else "stale")


def _parsed(document: Any) -> dict[str, Any]:
    """Give the signature keys of a set by id; kinds that are not for signatures are left out."""
    keys: dict[str, Any] = {}
    for entry in document["keys"][:_KEYS_MAX]:
        if entry.get("use", "sig") != "sig" or entry.get("kty") not in {"RSA", "OKP", "EC"}:
            continue
        if not isinstance(entry.get("kid"), str):
            continue
        try:
            keys[entry["kid"]] = jwt.PyJWK(entry).key
        except jwt.PyJWTError:
            continue
    if not keys:
        raise ValueError("no usable key in the set")
    return keys
