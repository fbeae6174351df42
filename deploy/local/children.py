"""Child processes: own process group, prefixed output, last lines kept, polite then certain end."""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from deploy.local.console import Console

ROOT = Path(__file__).resolve().parents[2]
TAIL_LINES = 20
_PR_SET_PDEATHSIG = 1
_LINE_BYTES_MAX = 16_384


def _die_with_parent() -> Callable[[], None] | None:
    """Give what a child runs before exec so that it ends when the runner is killed (Linux)."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)  # loaded before the fork: a lock held by another thread cannot bite
    return lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Child:
    """One running `python -m MODULE`."""

    def __init__(
        self,
        name: str,
        process: asyncio.subprocess.Process,
        console: Console,
        on_line: Callable[[str], bool] | None,
    ) -> None:
        self.name = name
        self.process = process
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._console = console
        self._on_line = on_line
        self._pump = asyncio.create_task(self._read())

    @classmethod
    async def start(
        cls,
        name: str,
        arguments: list[str],
        environ: Mapping[str, str],
        console: Console,
        *,
        on_line: Callable[[str], bool] | None = None,
    ) -> "Child":
        """Start `python -m ARGUMENTS` in the repository root.

        Args:
            name: prefix of its log lines.
            arguments: module and its arguments.
            environ: the whole environment.
            console: where its lines go.
            on_line: sees each line first; True means that it is dealt with.
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            *arguments,
            cwd=ROOT,
            env=dict(environ),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent(),
        )
        return cls(name, process, console, on_line)

    @property
    def pid(self) -> int:
        """Process id, which is also the process group's."""
        return self.process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.process.returncode is None

    async def wait(self) -> int:
        """Wait for the end and the last of the output; gives the exit code."""
        code = await self.process.wait()
        with contextlib.suppress(TimeoutError):
            # A grandchild may hold the pipe open; its output is not worth waiting for.
            await asyncio.wait_for(asyncio.shield(self._pump), 1.0)
        self._pump.cancel()
        return code

    async def stop(self, grace_s: float) -> None:
        """End the whole group: SIGTERM, and SIGKILL once the grace is over."""
        self.signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.process.wait(), grace_s)
        except TimeoutError:
            self._console.error(f"{self.name} did not stop within {grace_s:.0f} s; killing it")
        self.signal(signal.SIGKILL)
        await self.wait()

    def signal(self, number: int) -> None:
        """Send a signal to the whole group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    async def _read(self) -> None:
        stream = self.process.stdout
        assert stream is not None
        rest = b""
        while chunk := await stream.read(65_536):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._take(line)
            if len(rest) > _LINE_BYTES_MAX:
                self._take(rest)
                rest = b""
        if rest:
            self._take(rest)

    def _take(self, raw: bytes) -> None:
        line = raw[:_LINE_BYTES_MAX].decode("utf-8", "replace").rstrip("\r")
        self.tail.append(line)
        if self._on_line is None or not self._on_line(line):
            self._console.line(self.name, line)


def describe_exit(code: int) -> str:
    """Say how a process ended: its exit code, or the signal that killed it."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
