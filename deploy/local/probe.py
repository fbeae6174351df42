"""Asks a service on loopback whether it answers; without an HTTP library, to stay small."""

import asyncio
import time
from urllib.parse import urlsplit

_POLL_S = 0.1
_ANSWER_WITHIN_S = 2.0


async def status_of(url: str) -> int | None:
    """Give the status of a GET, or None when nothing answers."""
    parts = urlsplit(url)
    try:
        async with asyncio.timeout(_ANSWER_WITHIN_S):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            try:
                head = f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
                writer.write(f"{head}Connection: close\r\n\r\n".encode())
                words = (await reader.readline()).split()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return None
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else None


async def wait_for(url: str, within_s: float) -> bool:
    """Poll until the URL answers 200; says whether it did in time."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if await status_of(url) == 200:
            return True
        await asyncio.sleep(_POLL_S)
    return False
