"""Writes of one turn of the loop leave together: head and body of an answer are one system call.

uvicorn writes them one after the other, and the loop sends each at once.
"""

import asyncio
from typing import cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class CorkedTransport:
    """Collects the writes of one turn of the loop and sends them together."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.inner = transport
        self._loop = asyncio.get_running_loop()
        self._held: list[bytes] = []
        self.is_closing = transport.is_closing
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading
        self.get_extra_info = transport.get_extra_info
        self.set_protocol = transport.set_protocol

    def write(self, data: bytes) -> None:
        """Send before the loop's next turn."""
        if not self._held:
            self._loop.call_soon(self.flush)
        self._held.append(data)

    def close(self) -> None:
        """Send what is held, then close."""
        self.flush()
        self.inner.close()

    def flush(self) -> None:
        """Send what is held."""
        held = self._held
        if held:
            self._held = []
            self.inner.write(held[0] if len(held) == 1 else b"".join(held))


class CorkedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol over a corked transport."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Cork the connection."""
        corked = CorkedTransport(cast(asyncio.Transport, transport))
        super().connection_made(cast(asyncio.Transport, corked))
