"""The story of one run: stores, keys, migrations, six services, seed, banner, and the way back.

Start order: port check, Postgres, Redis, keys, migrations, the six services in parallel, readiness
stage by stage, seed, and last the file that turns the gateway ready. Whatever was started is
stopped in reverse order, on a signal, on a crash and on a failed start alike.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any

from deploy.local import environment
from deploy.local.banner import banner
from deploy.local.children import Child, describe_exit
from deploy.local.console import Console
from deploy.local.layout import Layout
from deploy.local.options import Options
from deploy.local.ports import LOOPBACK, SINK, WITNESS, check_free, choose_ports
from deploy.local.probe import wait_for
from deploy.local.servers import EmbeddedPostgres, EmbeddedRedis
from deploy.local.signals import signals_handled
from deploy.local.sink import SPANS_MAX, serve_sink
from libs.common.catalog import SERVICES
from libs.common.identity import ensure_keys

# Stopping goes through the stages backwards: callers first, the event log last, so that what the
# others still have to ship finds it there.
STAGES: tuple[tuple[str, ...], ...] = (
    ("audit",),
    ("features", "inference", "guardrails", "analytics"),
    ("gateway",),
)
READY_WITHIN_S = 60.0
STOP_WITHIN_S = 12.0


class StartError(Exception):
    """A part did not come up; its last lines are in the text."""


async def run(options: Options, environ: Mapping[str, str], console: Console) -> int:
    """Run until a signal or a crash; gives the exit code.

    Raises:
        PortBusyError: a port is taken.
        StateBusyError: another runner uses the state directory.
    """
    layout = Layout(options.state_dir)
    ports = choose_ports(environ, auto=options.auto_ports)
    with layout.lock():
        wanted = [*options.only] + ([] if environment.has_collector(environ) else [SINK])
        check_free(ports, wanted + ([WITNESS] if "audit" in options.only else []))
        suite = Suite(options, layout, ports, dict(environ), console)
        with signals_handled(first=suite.stop, second=suite.kill):
            return await suite.run()


async def _finish(work: Coroutine[Any, Any, str]) -> str:
    """Await work that must not be abandoned half-way, such as a server that is being started."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


class Suite:
    """Everything that runs, and how far it is."""

    def __init__(
        self,
        options: Options,
        layout: Layout,
        ports: dict[str, int],
        environ: dict[str, str],
        console: Console,
    ) -> None:
        self.options = options
        self.layout = layout
        self.ports = ports
        self.environ = environ
        self.console = console
        self.children: dict[str, Child] = {}
        self._embedded: list[EmbeddedPostgres | EmbeddedRedis] = []
        self._watchers: set[asyncio.Task[None]] = set()
        self._crashed: Child | None = None
        self._end = asyncio.Event()
        # Children whose end is wanted: stopping or being restarted.
        self._ending: set[int] = set()

    def stop(self) -> None:
        """Ask the run to end."""
        self._end.set()

    async def run(self) -> int:
        """Start, wait for the end, stop in reverse order; gives the exit code."""
        async with contextlib.AsyncExitStack() as stack:
            starting = asyncio.create_task(self._start(stack))
            ending = asyncio.create_task(self._end.wait())
            await asyncio.wait({starting, ending}, return_when=asyncio.FIRST_COMPLETED)
            try:
                if not starting.done():
                    starting.cancel()
                await starting
                await self._until_the_end(ending)
            except asyncio.CancelledError:
                self.console.say("interrupted while starting")
            except (StartError, RuntimeError, OSError) as error:
                self.console.error(str(error))
                return 1
            if self._crashed:
                self._report(self._crashed)
                return 1
            self.console.say("stopping")
        self.console.say("stopped")
        return 0

    async def _until_the_end(self, ending: asyncio.Task[bool]) -> None:
        if not self.options.reload:
            await ending
            return
        from deploy.local.reload import watch

        watching = asyncio.create_task(watch(self.options.only, self.restart, self.console))
        await asyncio.wait({watching, ending}, return_when=asyncio.FIRST_COMPLETED)
        watching.cancel()

    async def _start(self, stack: contextlib.AsyncExitStack) -> None:
        began = time.monotonic()
        if not environment.has_collector(self.environ):
            await stack.enter_async_context(serve_sink(LOOPBACK, self.ports[SINK]))
        postgres_url = redis_url = None
        if not environment.has_postgres(self.environ):
            self.console.say("PostgreSQL: starting the embedded server")
            if os.geteuid() == 0:
                self.console.say("PostgreSQL: as root it runs as the system user 'pgserver'")
            postgres_url = await self._embed(stack, EmbeddedPostgres(self.layout.postgres))
        if not environment.has_redis(self.environ):
            self.console.say("Redis: starting the embedded server")
            redis_url = await self._embed(stack, EmbeddedRedis(self.layout.redis))
        self.environ = environment.child_environment(
            self.environ,
            self.layout,
            self.ports,
            postgres_url=postgres_url,
            redis_url=redis_url,
            is_terminal=self.console.is_terminal,
        )
        ensure_keys(Path(self.environ["KEYS_DIR"]), [*SERVICES, "witness"])
        await self.once("migrate", "libs.common.migrations")
        await self._start_services(stack)
        await self._seed()
        self.layout.ready.touch()
        if "gateway" in self.options.only:
            await self._wait("gateway", "/readyz")
        stores = {
            "Postgres": "embedded" if postgres_url else "as configured",
            "Redis": "embedded" if redis_url else "as configured",
            "Traces": self._traces(),
        }
        seconds = time.monotonic() - began
        self.console.block(banner(self.layout, self.ports, self.options.only, stores, seconds))

    def _traces(self) -> str:
        if self.environ.get("OTEL_TRACES_EXPORTER") == "none":
            return "off"
        endpoint = self.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "Jaeger as configured")
        own = endpoint == f"http://{LOOPBACK}:{self.ports[SINK]}"
        return f"{endpoint}/traces (newest {SPANS_MAX} spans, JSON)" if own else endpoint

    async def _embed(
        self, stack: contextlib.AsyncExitStack, server: EmbeddedPostgres | EmbeddedRedis
    ) -> str:
        """Start an embedded server in a thread; a stop signal meanwhile waits for it."""
        self._embedded.append(server)
        stack.push_async_callback(asyncio.to_thread, server.stop)
        return await _finish(asyncio.to_thread(server.start))

    async def _start_services(self, stack: contextlib.AsyncExitStack) -> None:
        """Start all at once; wait for readiness stage by stage."""
        for stage in ((WITNESS,), *STAGES):
            stack.push_async_callback(self._stop_stage, stage)
        if "audit" in self.options.only:
            await self.spawn(WITNESS)
        for name in self.options.only:
            await self.spawn(name)
        self._tell()
        if "gateway" in self.options.only:
            await self.once(
                "bootstrap", "services.gateway.bootstrap", "--demo-key", str(self.layout.demo_key)
            )
        for stage in STAGES:
            for name in stage:
                if name in self.options.only:
                    await self._wait(name, "/livez" if name == "gateway" else "/readyz")

    async def _wait(self, name: str, path: str) -> None:
        if not await wait_for(f"http://{LOOPBACK}:{self.ports[name]}{path}", READY_WITHIN_S):
            tail = "\n".join(self.children[name].tail)
            raise StartError(
                f"{name} was not ready within {READY_WITHIN_S:.0f} s; its last lines:\n{tail}"
            )
        self.console.say(f"{name} answers {path}")

    async def _seed(self) -> None:
        """Load generated payments once, so that the first request meets real features."""
        if "features" not in self.options.only or self.layout.seed_marker.exists():
            return
        self.console.say("loading generated payments (first start only)")
        await self.once("seed", "deploy.local.seed", str(self.layout.seed_marker))

    async def once(self, name: str, module: str, *arguments: str) -> None:
        """Run a module to its end.

        Raises:
            StartError: it failed.
        """
        child = await Child.start(
            name, [module, *arguments], self.environ, self.console, on_line=self._progress
        )
        try:
            code = await child.wait()
        except asyncio.CancelledError:
            await child.stop(2.0)
            raise
        if code != 0:
            tail = "\n".join(child.tail)
            raise StartError(f"{name} failed ({describe_exit(code)}); its last lines:\n{tail}")

    def _progress(self, line: str) -> bool:
        """Turn `progress LABEL DONE TOTAL` of a child into a bar."""
        words = line.split()
        if len(words) != 4 or words[0] != "progress":
            return False
        self.console.progress(words[1], int(words[2]), int(words[3]))
        return True

    async def spawn(self, name: str) -> None:
        """Start one service and watch it."""
        child = await Child.start(name, [f"services.{name}"], self.environ, self.console)
        self.children[name] = child
        (self.layout.run / f"{name}.pid").write_text(str(child.pid))
        watcher = asyncio.create_task(self._watch(child))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)

    async def _watch(self, child: Child) -> None:
        await child.wait()
        if child.pid in self._ending:
            return
        if self.options.reload:
            self._report(child)
            self.console.say(f"{child.name}: waiting for a change of its code")
        elif not self._end.is_set():
            self._crashed = child
            self.stop()

    async def restart(self, name: str) -> None:
        """Stop one service and start it again, for changed code."""
        await self._stop(self.children[name])
        await self.spawn(name)
        self._tell()

    async def _stop_stage(self, stage: tuple[str, ...]) -> None:
        running = [self.children[name] for name in stage if name in self.children]
        await asyncio.gather(*(self._stop(child) for child in running))

    async def _stop(self, child: Child) -> None:
        self._ending.add(child.pid)
        await child.stop(STOP_WITHIN_S)

    def _report(self, child: Child) -> None:
        code = child.process.returncode
        self.console.error(f"{child.name} ended by itself: {describe_exit(code or 0)}")
        self.console.error(f"its last {len(child.tail)} lines:")
        for line in child.tail:
            self.console.error(f"  {line}")

    def _tell(self) -> None:
        """Write down where everything answers."""
        self.layout.write_suite(
            {
                "pid": os.getpid(),
                "services": {
                    name: {
                        "url": f"http://{LOOPBACK}:{self.ports[name]}",
                        "pid": self.children[name].pid if name in self.children else None,
                    }
                    for name in SERVICES
                },
                "postgres_url": self.environ["POSTGRES_URL"],
                "redis_url": self.environ.get("REDIS_URL"),
                "witness_url": self.environ["WITNESS_URL"],
                "otlp_url": self.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"),
                "demo_key_file": str(self.layout.demo_key),
            }
        )

    def kill(self) -> None:
        """End everything at once, after a second signal."""
        self.console.error("killing everything")
        for child in self.children.values():
            child.signal(signal.SIGKILL)
        for server in self._embedded:
            server.kill()
        os._exit(130)
