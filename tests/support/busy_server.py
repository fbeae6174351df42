"""A server whose requests each take 0.2 ms of the loop: `python -m tests.support.busy_server`."""

import asyncio
import time
from typing import Any

import uvicorn
import uvloop

from libs.common.server import _Server


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer `ok`."""
    until = time.perf_counter() + 2e-4
    while time.perf_counter() < until:
        pass
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


async def main() -> None:
    """Serve until the process ends; says the port first."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, lifespan="off", log_config=None)
    config.load()
    server = _Server(config)
    running = asyncio.create_task(server.serve())
    while not (server.started and server.servers):  # noqa: ASYNC110 # uvicorn tells no other way
        await asyncio.sleep(0.01)
    print(server.servers[0].port, flush=True)  # type: ignore[attr-defined] # a Listener
    await running


if __name__ == "__main__":
    uvloop.run(main())
