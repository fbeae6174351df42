"""Drives a headless Chromium over its debugging protocol; enough to fill a form and read a page."""

import asyncio
import base64
import itertools
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

BINARY = shutil.which("chromium")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
    "--window-size=1280,900",
)


class Page:
    """One open page."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self.console: list[str] = []

    async def command(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a protocol command and give its result; notes console errors on the way."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": params})
        async with asyncio.timeout(15):
            while True:
                message = await self._socket.receive_json()
                if message.get("id") == number:
                    assert "error" not in message, message
                    result: dict[str, Any] = message["result"]
                    return result
                if message.get("method") == "Log.entryAdded":
                    self.console.append(message["params"]["entry"]["text"])

    async def evaluate(self, expression: str) -> Any:
        """Give the value of a JavaScript expression."""
        result = await self.command("Runtime.evaluate", expression=expression, returnByValue=True)
        return result["result"].get("value")

    async def until(self, expression: str, timeout_s: float = 10.0) -> None:
        """Poll until the expression is true."""
        async with asyncio.timeout(timeout_s):
            while not await self.evaluate(expression):  # noqa: ASYNC110 - polled from outside
                await asyncio.sleep(0.05)

    async def screenshot(self, file: Path) -> None:
        """Write a PNG of the whole page."""
        shot = await self.command(
            "Page.captureScreenshot", format="png", captureBeyondViewport=True
        )
        file.write_bytes(base64.b64decode(shot["data"]))  # noqa: ASYNC240 - one file, in a test


@asynccontextmanager
async def open_page(url: str) -> AsyncIterator[Page]:
    """Run Chromium with one page for the length of a block."""
    assert BINARY
    profile = Path(tempfile.mkdtemp(prefix="gh-chromium-"))
    process = await asyncio.create_subprocess_exec(
        BINARY,
        *_FLAGS,
        f"--user-data-dir={profile}",
        "about:blank",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        port_file = profile / "DevToolsActivePort"
        async with asyncio.timeout(30):
            while not port_file.exists() or not port_file.read_text():  # noqa: ASYNC110 - a file
                await asyncio.sleep(0.05)
        port = port_file.read_text().split()[0]
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as reply:
                targets = await reply.json()
            target = next(t for t in targets if t["type"] == "page")
            async with session.ws_connect(
                target["webSocketDebuggerUrl"], max_msg_size=64 << 20
            ) as socket:
                page = Page(socket)
                await page.command("Log.enable")
                await page.command("Page.navigate", url=url)
                await page.until("document.readyState === 'complete'")
                yield page
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        shutil.rmtree(profile, ignore_errors=True)
