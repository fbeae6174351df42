"""A TCP proxy that misbehaves on demand: slow, silent, or cut off; in front of a store or service.

Listens on a free loopback port and connects to a Unix socket or a TCP port behind it.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class FaultProxy:
    """`delay_s` slows each piece; `pause` keeps everything; `cut` breaks what is open."""

    unix_path: str = ""
    target_port: int = 0
    port: int = 0
    delay_s: float = 0.0
    refuses: bool = False
    connections: int = 0
    _open: asyncio.Event = field(default_factory=asyncio.Event)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def pause(self) -> None:
        """Pass nothing on, as a process stopped with SIGSTOP: connections stay open."""
        self._open.clear()

    def resume(self) -> None:
        """Pass everything on again, what was kept first."""
        self._open.set()

    def cut(self) -> None:
        """Reset every open connection."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            if self.refuses:
                writer.transport.abort()
                return
            behind = await (
                asyncio.open_unix_connection(self.unix_path)
                if self.unix_path
                else asyncio.open_connection("127.0.0.1", self.target_port)
            )
            self._writers |= {writer, behind[1]}
            await asyncio.gather(self._pass(reader, behind[1]), self._pass(behind[0], writer))
        except (OSError, asyncio.CancelledError):
            return  # asyncio.streams reports a cancelled handler as an error in 3.11
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                await self._open.wait()
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                writer.write(data)
                await writer.drain()
        finally:
            self._writers.discard(writer)
            with suppress(OSError, RuntimeError):
                writer.close()


@asynccontextmanager
async def fault_proxy(*, unix_path: str = "", target_port: int = 0) -> AsyncIterator[FaultProxy]:
    """Run a proxy for the length of a block."""
    proxy = FaultProxy(unix_path, target_port)
    proxy.resume()
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        for task in list(proxy._tasks):
            task.cancel()
        await asyncio.gather(*proxy._tasks, return_exceptions=True)
