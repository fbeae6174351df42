"""Connections that wait come in together, and none of them is forgotten under load."""

import asyncio
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from benchmarks.raw_client import Load, _connected
from libs.common import listener
from libs.common.listener import Listener, listen

CALLERS = 300


class Counting(asyncio.Protocol):
    """Counts connections and echoes."""

    count = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        Counting.count += 1
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[attr-defined] # a socket transport


@pytest.fixture(autouse=True)
def _from_zero() -> None:
    Counting.count = 0


def connected(port: int, count: int) -> list[socket.socket]:
    """Connect without a turn of the loop: the kernel does it alone."""
    return [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]


def test_what_waits_comes_in_within_a_few_turns_of_the_loop() -> None:
    async def run() -> int:
        found = await listen("127.0.0.1", 0, 2_048, Counting)
        callers = connected(found[0].port, CALLERS)
        turns = 0
        while Counting.count < CALLERS:
            turns += 1
            await asyncio.sleep(0)
        for caller in callers:
            caller.close()
        found[0].close()
        return turns

    assert uvloop.run(run()) <= 8  # one per turn is what uvloop's own servers take


def test_after_closing_nobody_gets_in_and_who_is_in_stays() -> None:
    async def run() -> None:
        found = await listen("127.0.0.1", 0, 16, Counting)
        port = found[0].port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        found[0].close()
        found[0].close()  # a second time does no harm
        await found[0].wait_closed()
        writer.write(b"still here")
        assert await reader.readexactly(10) == b"still here"
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        writer.close()

    uvloop.run(run())


def test_without_file_descriptors_it_pauses_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    class Exhausted:
        """A listening socket of a process that may open no more files, for the first call."""

        def __init__(self, real: socket.socket) -> None:
            self.real, self.calls = real, 0
            self.fileno, self.close, self.setblocking = real.fileno, real.close, real.setblocking
            self.getsockname = real.getsockname

        def accept(self) -> tuple[socket.socket, object]:
            self.calls += 1
            if self.calls == 1:
                raise OSError(24, "Too many open files")
            return self.real.accept()

    monkeypatch.setattr(listener, "_PAUSE_S", 0.05)

    async def run() -> int:
        real = socket.create_server(("127.0.0.1", 0))
        exhausted = Exhausted(real)
        made = Listener(exhausted, Counting)  # type: ignore[arg-type] # as much of a socket as it uses
        reader, writer = await asyncio.open_connection("127.0.0.1", made.port)
        writer.write(b"x")
        async with asyncio.timeout(5):
            assert await reader.readexactly(1) == b"x"
        writer.close()
        made.close()
        return exhausted.calls

    assert uvloop.run(run()) <= 4  # it did not spin meanwhile


def test_an_address_that_is_taken_is_an_error() -> None:
    async def run() -> None:
        first = await listen("127.0.0.1", 0, 16, Counting)
        with pytest.raises(OSError, match="in use"):
            await listen("127.0.0.1", first[0].port, 16, Counting)
        first[0].close()

    uvloop.run(run())


def test_who_does_not_speak_tls_does_not_stop_who_does(tmp_path: Path) -> None:
    cert, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "1", "-subj", "/CN=one", "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    trust = ssl.create_default_context(cafile=str(cert))
    trust.check_hostname = False

    async def run() -> None:
        found = await listen("127.0.0.1", 0, 16, Counting, context)
        port = found[0].port
        plain, other = await asyncio.open_connection("127.0.0.1", port)
        other.write(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await plain.readexactly(100)
        other.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust)
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        writer.close()
        found[0].close()

    uvloop.run(run())


@pytest.fixture
def busy_server() -> Iterator[tuple[subprocess.Popen[str], int]]:
    command = [sys.executable, "-m", "tests.support.busy_server"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, int(process.stdout.readline())
        finally:
            process.terminate()


def test_no_caller_of_a_busy_server_gets_less_than_half_of_the_mean(
    busy_server: tuple[subprocess.Popen[str], int],
) -> None:
    """All callers connect while the server looks away, as after a restart behind a balancer."""
    process, port = busy_server
    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    counts = [0] * CALLERS

    async def run() -> None:
        process.send_signal(signal.SIGSTOP)
        try:
            clients = await _connected(port, CALLERS, Load())
        finally:
            process.send_signal(signal.SIGCONT)
        until = time.perf_counter() + 2.0

        async def work(number: int) -> None:
            while time.perf_counter() < until:
                await clients[number].ask(request, time.perf_counter())
                counts[number] += 1

        async with asyncio.timeout(30):
            await asyncio.gather(*(work(number) for number in range(CALLERS)))
        for client in clients:
            client.close()

    uvloop.run(run())
    assert min(counts) >= sum(counts) / CALLERS / 2
