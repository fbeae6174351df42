"""A load client that costs little: prepared request bytes over asyncio protocols."""

import asyncio
import ctypes
import itertools
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

_BODY = b'{"card_id":"card_00000001","transaction_amount":1.0,"pad":"' + b"y" * 963 + b'"}'
_STATUS_OK = b"HTTP/1.1 200"


def request_bytes(port: int, key: str) -> bytes:
    """Give one scoring request with a body of 1 KiB."""
    return (
        f"POST /score/fraud HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nX-API-Key: {key}\r\n"
        "Content-Type: application/json\r\nAccept: */*\r\nAccept-Encoding: gzip, deflate\r\n"
        f"User-Agent: benchmark\r\nContent-Length: {len(_BODY)}\r\n\r\n"
    ).encode() + _BODY


@dataclass
class Load:
    """What came back: seconds per answer, errors, and how long it took in all."""

    samples: list[float] = field(default_factory=list)
    errors: int = 0
    seconds: float = 0.0

    @property
    def per_s(self) -> float:
        """Answers per second."""
        return len(self.samples) / self.seconds

    def quantile_ms(self, share: float) -> float:
        """Give a quantile of the latencies, milliseconds."""
        ordered = sorted(self.samples)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1e3


class _Client(asyncio.Protocol):
    """One keep-alive connection; `finished` is called after each answer."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._held = b""
        self._waiting: asyncio.Future[None] | None = None
        self.is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    async def ask(self, request: bytes, since: float) -> None:
        """Send and wait for the answer; its latency counts from `since`.

        On a connection that the server closed meanwhile it counts an error, as a sender would.
        """
        if self.is_lost:
            self._load.errors += 1
            return
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)  # type: ignore[attr-defined] # a socket transport
        await self._waiting
        self._load.samples.append(time.perf_counter() - since)

    def data_received(self, data: bytes) -> None:
        self._held += data
        end = self._held.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._held[:end].lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0])
        if len(self._held) < end + 4 + length:
            return
        self._load.errors += not self._held.startswith(_STATUS_OK)
        self._held = b""
        if self._waiting and not self._waiting.done():
            self._waiting.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        if self._waiting and not self._waiting.done():
            self._load.errors += 1
            self._waiting.set_result(None)

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()


async def _connected(port: int, count: int, load: Load) -> list[_Client]:
    loop = asyncio.get_running_loop()
    return [
        (await loop.create_connection(lambda: _Client(load), "127.0.0.1", port))[1]
        for _ in range(count)
    ]


async def closed_loop(
    port: int, request: bytes | Sequence[bytes], connections: int, seconds: float
) -> Load:
    """Ask on each connection as fast as answers come; several requests are sent in turn."""
    load = Load()
    turn = itertools.cycle([request] if isinstance(request, bytes) else request)
    clients = await _connected(port, connections, load)
    started = time.perf_counter()

    async def work(client: _Client) -> None:
        while time.perf_counter() - started < seconds and not client.is_lost:
            await client.ask(next(turn), time.perf_counter())

    await asyncio.gather(*(work(client) for client in clients))
    load.seconds = time.perf_counter() - started
    for client in clients:
        client.close()
    return load


class _Ticks:
    """A timer of the kernel, exact to some 50 us, that wakes the loop.

    The loop's own timers count whole milliseconds: arrivals would be late by up to one, which is
    more than a fast proxy adds. Turning until the moment comes would keep a core from everybody.
    """

    def __init__(self, per_s: float) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._number: int = libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK)
        seconds, nanoseconds = divmod(int(1e9 / per_s), 10**9)
        # struct itimerspec: interval, then the first one, each as seconds and nanoseconds
        spec = (ctypes.c_long * 4)(seconds, nanoseconds, seconds, nanoseconds)
        if self._number < 0 or libc.timerfd_settime(self._number, 0, spec, None):
            raise OSError(ctypes.get_errno(), "timerfd")
        self._passed = 0
        self._come = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._number, self._read)

    def _read(self) -> None:
        self._passed += int.from_bytes(os.read(self._number, 8), sys.byteorder)
        self._come.set()

    async def reach(self, count: int) -> None:
        """Wait for the tick of a number, counted from one."""
        while self._passed < count:
            self._come.clear()
            await self._come.wait()

    def close(self) -> None:
        """End the timer."""
        asyncio.get_running_loop().remove_reader(self._number)
        os.close(self._number)


async def open_loop(
    port: int, request: bytes | Sequence[bytes], per_s: int, seconds: float
) -> Load:
    """Ask on a schedule, over as many connections as it takes; latency from the intended time."""
    load = Load()
    turn = itertools.cycle([request] if isinstance(request, bytes) else request)
    free = await _connected(port, 64, load)
    everyone = list(free)
    running: set[asyncio.Task[None]] = set()
    started = time.perf_counter()
    ticks = _Ticks(per_s)

    async def one(client: _Client, intended: float) -> None:
        await client.ask(next(turn), intended)
        free.append(client)

    for number in range(1, int(per_s * seconds) + 1):
        intended = started + number / per_s
        await ticks.reach(number)
        if not free:
            made = await _connected(port, 1, load)
            free += made
            everyone += made
        task = asyncio.create_task(one(free.pop(), intended))
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)
    load.seconds = time.perf_counter() - started
    ticks.close()
    for client in everyone:
        client.close()
    return load
