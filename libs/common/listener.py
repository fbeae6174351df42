"""The listening sockets of a server: in one turn of the loop, all waiting connections come in.

uvloop takes one connection per turn (libuv's `uv__server_io`). A turn serves every request that is
there, so under load it lasts some 50 ms: with 1,000 callers the last of them waited for seconds
before the server knew of them, while the first were served hundreds of times.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable

from libs.common.logging import get_logger

log = get_logger()

# A flood of new connections must not hold up the requests of the old ones: this many cost ~10 ms.
TAKEN_PER_TURN_MAX = 256
_HANDSHAKE_S = 10.0
# Without file descriptors left, accepting again at once would only spin.
_PAUSE_S = 0.5


class Listener:
    """One listening socket; has of `asyncio.Server` what uvicorn asks for."""

    def __init__(
        self,
        listening: socket.socket,
        make_protocol: Callable[[], asyncio.Protocol],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Start to accept; the socket is closed by `close`."""
        self._socket = listening
        self._make_protocol = make_protocol
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[None]] = set()
        listening.setblocking(False)
        self._listen()

    @property
    def port(self) -> int:
        """Where it listens; the system chose it when 0 was asked for."""
        port: int = self._socket.getsockname()[1]
        return port

    def close(self) -> None:
        """Accept no more; what was accepted lives on."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()

    async def wait_closed(self) -> None:
        """Return at once: closing waits for nothing."""

    def _listen(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.add_reader(self._socket.fileno(), self._take)

    def _take(self) -> None:
        """Accept what waits."""
        for _ in range(TAKEN_PER_TURN_MAX):
            try:
                accepted, _ = self._socket.accept()
            except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                return  # none waits, or its caller has left; the loop tells again
            except OSError as error:
                log.warning("connections wait", error_type=type(error).__name__, wait_s=_PAUSE_S)
                self._loop.remove_reader(self._socket.fileno())
                self._loop.call_later(_PAUSE_S, self._listen)
                return
            task = self._loop.create_task(self._open(accepted))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self, accepted: socket.socket) -> None:
        """Hand a connection to its protocol."""
        try:
            await self._loop.connect_accepted_socket(
                self._make_protocol,
                accepted,
                ssl=self._tls,
                ssl_handshake_timeout=_HANDSHAKE_S if self._tls else None,
            )
        except OSError:  # ssl.SSLError is one
            accepted.close()  # the caller left, or did not speak TLS


async def listen(
    host: str,
    port: int,
    backlog: int,
    make_protocol: Callable[[], asyncio.Protocol],
    tls: ssl.SSLContext | None = None,
) -> list[Listener]:
    """Listen at every address of a host.

    Raises:
        OSError: an address cannot be used.
    """
    found = await asyncio.get_running_loop().getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    bound: list[socket.socket] = []
    try:
        for family, address in {(entry[0], entry[4]) for entry in found}:
            bound.append(_bound(family, address, backlog))
    except OSError:
        for listening in bound:
            listening.close()
        raise
    return [Listener(listening, make_protocol, tls) for listening in bound]


def _bound(family: int, address: tuple[object, ...], backlog: int) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(address)
        listening.listen(backlog)
    except OSError:
        listening.close()
        raise
    return listening
