"""Webhooks: where one may be sent, how it is signed, when it is tried again; pure.

The signature is that of the Standard Webhooks specification (standardwebhooks.com), so receivers
can check it with a library of theirs: HMAC-SHA256 over `id.timestamp.body`, secret `whsec_...`.
"""

import hashlib
import hmac
from base64 import b64decode, b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit

URL_CHARS_MAX = 2_000
# Waits before the second and later attempts; after the last one the delivery is dead.
RETRY_AFTER = (
    timedelta(seconds=5),
    timedelta(seconds=30),
    timedelta(minutes=2),
    timedelta(minutes=10),
    timedelta(minutes=30),
)
ATTEMPTS_MAX = len(RETRY_AFTER) + 1
_PORTS = {"https": 443, "http": 80}
_NAT64 = IPv6Network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port of a URL."""

    scheme: str
    host: str
    port: int


def origin_of(url: str) -> Origin | None:
    """Give the origin of an http(s) URL without user information, None for anything else."""
    if len(url) > URL_CHARS_MAX or any(ord(c) <= 32 or ord(c) == 127 for c in url) or "\\" in url:
        return None
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _PORTS or not parts.hostname or "@" in parts.netloc:
        return None
    return Origin(parts.scheme, parts.hostname.rstrip("."), port or _PORTS[parts.scheme])


class Destinations:
    """The allow-list: public origins, and origins that may lie in a private network."""

    def __init__(self, public: Iterable[str], private: Iterable[str]) -> None:
        self._public = {origin_of(url) for url in public} - {None}
        self._private = {origin_of(url) for url in private} - {None}

    def allows(self, url: str) -> bool:
        """Say whether the URL's origin is listed; plain http only in the private list."""
        origin = origin_of(url)
        if origin is None:
            return False
        return origin in self._private or (origin in self._public and origin.scheme == "https")

    def may_be_private(self, url: str) -> bool:
        """Say whether the URL may lead to an address that is not public."""
        return origin_of(url) in self._private


def is_public(address: str) -> bool:
    """Say whether an IP address is out on the Internet.

    False for private, loopback, link-local (cloud metadata), shared, multicast and reserved ones,
    also when they are wrapped into IPv6 (mapped, 6to4, NAT64).
    """
    try:
        ip: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if inner is None and ip in _NAT64:
            inner = IPv4Address(int(ip) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast


def secret_of(master: str, tenant: str, version: int) -> str:
    """Derive a tenant's signing secret; a new version gives a new one, and none is stored."""
    digest = hmac.digest(master.encode(), f"webhook:{version}:{tenant}".encode(), hashlib.sha256)
    return f"whsec_{b64encode(digest).decode()}"


def headers_of(secret: str, message_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
    """Give the headers by which a receiver knows that a message is ours and new."""
    signed = f"{message_id}.{timestamp_s}.".encode() + body
    key = b64decode(secret.removeprefix("whsec_"))
    signature = b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": f"v1,{signature}",
    }


def wait_after(attempts: int) -> timedelta | None:
    """Say how long to wait after so many failed attempts; None when it was the last."""
    return RETRY_AFTER[attempts - 1] if attempts < ATTEMPTS_MAX else None
