"""Runs a service: uvicorn from code, own signals, drain in order.

SIGTERM or SIGINT: readiness turns 503 at once; the process serves on for `DRAIN_S` so that load
balancers notice; then uvicorn stops accepting and waits for in-flight requests up to `SHUTDOWN_S`;
then the lifespan ends, which ships events and flushes spans. A second signal ends it at once.
"""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable
from typing import TypeVar

import uvicorn

from libs.common.app import ServiceApp
from libs.common.logging import configure_logging, get_logger
from libs.common.settings import ServiceSettings, SettingsError

# Above the gateway pool's 30 s, so that the pool, not the server, closes idle connections.
KEEP_ALIVE_S = 75

SettingsT = TypeVar("SettingsT", bound=ServiceSettings)


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: ours drains first."""

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def] # uvicorn's signature, a generator
        yield


async def serve(app: ServiceApp, settings: ServiceSettings) -> None:
    """Serve until a signal, then drain and stop."""
    server = _Server(
        uvicorn.Config(
            app,
            http=app.http_protocol,
            host=settings.host,
            port=settings.listen_port,
            log_config=None,
            access_log=False,
            lifespan="on",
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=int(settings.shutdown_s) or 1,
            server_header=False,
            # uvicorn would believe X-Forwarded-For from loopback; only the gateway decides on it.
            proxy_headers=False,
            date_header=False,
            backlog=2048,
        )
    )
    log = get_logger()
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()

    def on_signal() -> None:
        if stopping.is_set():
            server.force_exit = True
            server.should_exit = True
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    running = asyncio.create_task(server.serve())
    waiting = asyncio.create_task(stopping.wait())
    await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if not running.done():
        log.info("draining", wait_s=settings.drain_s)
        app.platform.health.drain()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(running), settings.drain_s)
        server.should_exit = True
    waiting.cancel()
    await running
    log.info("stopped")


def main(settings_class: type[SettingsT], create: Callable[[SettingsT], ServiceApp]) -> None:
    """Entry point of every service: read settings, configure, serve."""
    try:
        settings = settings_class.load()
        configure_logging(
            settings_class.service, level=settings.log_level, log_format=settings.log_format
        )
        app = create(settings)
    except SettingsError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    import uvloop

    get_logger().info("starting", port=settings.listen_port)
    uvloop.run(serve(app, settings))
