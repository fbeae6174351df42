"""Several real processes of analytics over the same stores, for what no single process shows."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from deploy.local.ports import free_port


@dataclass
class Process:
    """One started process."""

    url: str
    popen: subprocess.Popen[bytes]


def _start(state: Path, environment: dict[str, str]) -> Process:
    state.mkdir()
    port = free_port()
    popen = subprocess.Popen(
        [sys.executable, "-m", "services.analytics"],
        env={
            **os.environ,
            "STATE_DIR": str(state),
            "PORT": str(port),
            "IDENTITY_MODE": "open",
            "OTEL_TRACES_EXPORTER": "none",
            "LOG_LEVEL": "error",
            **environment,
        },
    )
    return Process(f"http://127.0.0.1:{port}", popen)


@asynccontextmanager
async def analytics_processes(
    count: int, directory: Path, environment: dict[str, str]
) -> AsyncIterator[list[Process]]:
    """Start `count` processes and wait until they are ready; kill what is left at the end."""
    started = [_start(directory / f"analytics-{at}", environment) for at in range(count)]
    try:
        async with aiohttp.ClientSession() as session:
            for process in started:
                await _until_ready(session, process)
        yield started
    finally:
        for process in started:
            process.popen.kill()
        for process in started:
            process.popen.wait()


async def _until_ready(session: aiohttp.ClientSession, process: Process) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.popen.poll() is not None:
            raise RuntimeError("a process of analytics ended at its start")
        try:
            async with session.get(f"{process.url}/readyz") as answer:
                if answer.status == 200:
                    return
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(0.1)
    raise RuntimeError("a process of analytics did not get ready")
