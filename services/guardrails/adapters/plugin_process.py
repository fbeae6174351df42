"""One plug-in version in a process of its own: started, asked, killed, started again.

Failure policy: a call that is late kills the process (TIMEOUT for its texts), a process that ends
gives ERROR, and both start it again after a pause that doubles. Three crashes within a minute
disable the version until an operator activates one again.
"""

import asyncio
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson

from libs.common.logging import get_logger
from services.guardrails.domain.plugins import (
    BadAnswerError,
    PluginManifest,
    read_answer,
)
from services.guardrails.domain.verdict import Detection

log = get_logger()
CHILD = Path(__file__).resolve().parents[1] / "plugin_child.py"
_START_WITHIN_S = 10.0
_FRAME_BYTES_MAX = 32 << 20
_CRASHES_MAX, _CRASH_WINDOW_S = 3, 60.0
_PAUSE_FIRST_S, _PAUSE_MAX_S = 0.05, 2.0
# A call that was given up earlier than this does not count against the version.
_LATE_MIN_S = 0.25
# Calls that wait for the process; a further one is an error at once.
_WAITING_MAX = 64


class PluginFailedError(Exception):
    """The plug-in did not answer; `reason` is from a closed set."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class PluginProcess:
    """Runs one version; calls are answered one at a time, in order."""

    def __init__(
        self,
        manifest: PluginManifest,
        folder: str,
        *,
        memory_bytes: int,
        on_disabled: Callable[[], None] = lambda: None,
    ) -> None:
        """Describe the process; `start` starts it.

        Args:
            manifest: of the version.
            folder: where its code lies; empty for an installed package.
            memory_bytes: address space of the process.
            on_disabled: called once when it has crashed too often.
        """
        self.manifest = manifest
        self.is_disabled = False
        self._folder = folder
        self._memory = memory_bytes
        self._on_disabled = on_disabled
        self._lock = asyncio.Lock()
        self._waiting = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._calls = 0
        self._crashes: deque[float] = deque(maxlen=_CRASHES_MAX)
        self._is_ready = False
        self._starting: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    @property
    def pid(self) -> int | None:
        """Of the running process."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Start the process and wait until the code is loaded.

        Raises:
            PluginFailedError: it ended or did not get ready.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                str(CHILD),
                str(theirs.fileno()),
                str(self._memory),
                self._folder,
                self.manifest.entry_point,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env={"LANG": "C.UTF-8"},
                cwd="/",
                start_new_session=True,
            )
        self._reader, self._writer = await asyncio.open_connection(
            sock=ours, limit=_FRAME_BYTES_MAX
        )
        try:
            async with asyncio.timeout(_START_WITHIN_S):
                await self._receive()
            self._is_ready = True
        except (TimeoutError, PluginFailedError):
            await self._kill()
            raise PluginFailedError("start") from None
        except asyncio.CancelledError:
            await asyncio.shield(self._kill())
            raise

    async def check(
        self, texts: Sequence[str], context: dict[str, Any], version: str
    ) -> list[Detection]:
        """Judge texts; the caller's deadline cancels, and a cancelled call kills the process.

        Raises:
            PluginFailedError: disabled, crashed, or an answer that is none.
        """
        if self.is_disabled:
            raise PluginFailedError("disabled")
        if self._waiting >= _WAITING_MAX:
            raise PluginFailedError("busy")
        self._waiting += 1
        self._idle.clear()
        try:
            async with self._lock:
                return await self._ask(texts, context, version)
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._idle.set()

    async def retire(self) -> None:
        """Let the calls that hold this version end, then stop the process."""
        await self._idle.wait()
        await self.close()

    async def close(self) -> None:
        """Let the running call end, then stop the process."""
        async with self._lock:
            self.is_disabled = True
            if self._starting is not None:
                await asyncio.gather(self._starting, return_exceptions=True)
            await self._kill()

    async def _ask(
        self, texts: Sequence[str], context: dict[str, Any], version: str
    ) -> list[Detection]:
        await self._ensure_running()
        self._calls += 1
        asked = {"id": self._calls, "texts": list(texts), "context": context}
        done, began = False, time.monotonic()
        try:
            assert self._writer is not None  # running
            body = orjson.dumps(asked)
            self._writer.write(struct.pack(">I", len(body)) + body)
            await self._writer.drain()
            answer = await self._receive()
            done = True
        except (ConnectionError, PluginFailedError):
            raise PluginFailedError("crash") from None
        except asyncio.CancelledError:
            # A caller in a hurry must not disable a plug-in: only a long wait speaks against it.
            done = time.monotonic() - began < _LATE_MIN_S
            if done:
                await asyncio.shield(self._kill())
            raise
        finally:
            # A late or broken process may answer the wrong call next: it never gets one.
            if not done:
                await asyncio.shield(self._crashed())
        if answer.get("id") != self._calls or "error" in answer:
            raise PluginFailedError("raised" if "error" in answer else "answer")
        try:
            return read_answer(answer.get("verdicts"), texts, self.manifest, version)
        except BadAnswerError:
            raise PluginFailedError("answer") from None

    async def _ensure_running(self) -> None:
        if self._is_ready and self._process is not None and self._process.returncode is None:
            return
        if self._starting is None or self._starting.done():
            self._starting = asyncio.ensure_future(self._restart())
        # A caller that gives up while the process starts leaves it starting for the next one.
        await asyncio.shield(self._starting)

    async def _restart(self) -> None:
        if self.is_disabled:
            raise PluginFailedError("disabled")
        if self._crashes:
            await asyncio.sleep(min(_PAUSE_MAX_S, _PAUSE_FIRST_S * 2 ** len(self._crashes)))
        try:
            await self.start()
        except PluginFailedError:
            await self._crashed()
            raise

    async def _receive(self) -> dict[str, Any]:
        assert self._reader is not None  # started
        try:
            (size,) = struct.unpack(">I", await self._reader.readexactly(4))
            if size > _FRAME_BYTES_MAX:
                raise PluginFailedError("answer")
            document = orjson.loads(await self._reader.readexactly(size))
        except (asyncio.IncompleteReadError, ConnectionError, orjson.JSONDecodeError):
            raise PluginFailedError("crash") from None
        if not isinstance(document, dict):
            raise PluginFailedError("answer")
        return document

    async def _crashed(self) -> None:
        await self._kill()
        now = time.monotonic()
        self._crashes.append(now)
        is_often = len(self._crashes) == _CRASHES_MAX
        if is_often and now - self._crashes[0] < _CRASH_WINDOW_S and not self.is_disabled:
            self.is_disabled = True
            log.error("plug-in disabled", validator=self.manifest.name, reason="crashes")
            self._on_disabled()

    async def _kill(self) -> None:
        process, self._process = self._process, None
        self._is_ready = False
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
        if process is not None:
            if process.returncode is None:
                process.kill()
            await process.wait()
