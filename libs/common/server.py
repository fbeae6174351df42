"""Runs a service: uvicorn from code, own signals, drain in order.

SIGTERM or SIGINT: readiness turns 503 at once; the process serves on for `DRAIN_S` so that load
balancers notice; then new work is refused with 503 and Retry-After, the listener still open, until
in-flight requests have finished or `SHUTDOWN_S` is over; then uvicorn stops and the lifespan ends,
which ships events and flushes spans. A second signal ends it at once.
"""

import asyncio
import contextlib
import functools
import gc
import signal
import socket
import sys
from collections.abc import Callable
from typing import TypeVar, cast

import uvicorn

from libs.common.app import ServiceApp
from libs.common.listener import listen
from libs.common.logging import configure_logging, get_logger
from libs.common.settings import ServiceSettings, SettingsError
from libs.common.tls import keep_fresh

# Above the gateway pool's 30 s, so that the pool, not the server, closes idle connections.
KEEP_ALIVE_S = 75
_POLL_S = 0.02
_CANNOT_START = 3  # as uvicorn exits
# Objects until a collection of the young generation, and its ratio to those of the older ones.
GC_THRESHOLDS = (20_000, 20, 20)

SettingsT = TypeVar("SettingsT", bound=ServiceSettings)


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: ours drains first."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open what the service owns, then listen, with listeners of our own."""
        await super().startup(sockets=[])
        config = self.config
        make_protocol = functools.partial(
            cast(Callable[..., asyncio.Protocol], config.http_protocol_class),
            config=config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        try:
            self.servers = await listen(  # type: ignore[assignment] # what uvicorn uses of a Server
                config.host, config.port, config.backlog, make_protocol, config.ssl
            )
        except OSError as error:
            get_logger().error("cannot listen", port=config.port, error_type=type(error).__name__)
            await self.lifespan.shutdown()
            sys.exit(_CANNOT_START)
        settle_garbage_collector()

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def] # uvicorn's signature, a generator
        yield


def settle_garbage_collector() -> None:
    """Leave what start-up made out of every later collection, and collect less often.

    Modules, models and routes live as long as the process; with Python's defaults they were walked
    again and again, 7 % of a scoring request.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


async def serve(app: ServiceApp, settings: ServiceSettings) -> None:
    """Serve until a signal, then drain and stop."""
    config = _config(app, settings)
    server = _Server(config)
    stopping = _on_signals(server)
    running = asyncio.create_task(server.serve())
    waiting = asyncio.create_task(stopping.wait())
    fresh = (
        asyncio.create_task(keep_fresh(config.ssl, *app.tls)) if app.tls and config.ssl else None
    )
    log = get_logger()
    await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if not running.done():
        log.info("draining", wait_s=settings.drain_s)
        app.platform.health.drain()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(running), settings.drain_s)
        await _finish(app, server, running, settings.shutdown_s)
        server.should_exit = True
    waiting.cancel()
    if fresh:
        fresh.cancel()
    await running
    log.info("stopped")


def _config(app: ServiceApp, settings: ServiceSettings) -> uvicorn.Config:
    """Give uvicorn's configuration, loaded."""
    config = uvicorn.Config(
        app,
        http=app.http_protocol,
        ssl_certfile=app.tls[0] if app.tls else None,
        ssl_keyfile=app.tls[1] if app.tls else None,
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
    config.load()
    return config


def _on_signals(server: uvicorn.Server) -> asyncio.Event:
    """Give an event that SIGTERM or SIGINT sets; the second one ends the server at once."""
    stopping = asyncio.Event()

    def on_signal() -> None:
        if stopping.is_set():
            server.force_exit = True
            server.should_exit = True
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    return stopping


async def _finish(
    app: ServiceApp, server: uvicorn.Server, running: "asyncio.Task[None]", within_s: float
) -> None:
    """Refuse new work with 503 and wait for what is in flight, the listener still open.

    uvicorn would close the listener first: a prober or a late caller would then be reset.
    """
    app.platform.health.refuse()
    loop = asyncio.get_running_loop()
    until = loop.time() + within_s
    while app.in_flight and not running.done() and loop.time() < until:  # noqa: ASYNC110 # a count
        await asyncio.sleep(_POLL_S)
    server.config.timeout_graceful_shutdown = max(1, int(until - loop.time()))


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
