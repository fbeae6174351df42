"""What a service stands on, built once from its settings and its catalogue entry."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry

from libs.common.catalog import SERVICES, Service, callers_of
from libs.common.errors import UnavailableError
from libs.common.events.envelope import EventEmitter
from libs.common.health import Component, Health
from libs.common.http_client import ServiceClient
from libs.common.identity import Signer, Verifier
from libs.common.metrics import DependencyMetrics, ProcessMetrics
from libs.common.postgres import Postgres
from libs.common.redis import UNAVAILABLE as REDIS_UNAVAILABLE
from libs.common.redis import Redis, create_redis
from libs.common.settings import ServiceSettings, SettingsError

VERSION = "0.1.0"


@dataclass
class Platform:
    """The shared parts of one running service; typed, passed to its lifespan.

    `migrated` is set when the service's schema has what this release needs (`schema_gate`).
    """

    entry: Service
    settings: ServiceSettings
    health: Health
    registry: CollectorRegistry
    dependencies: DependencyMetrics
    signer: Signer | None
    verifier: Verifier | None
    clients: dict[str, ServiceClient] = field(default_factory=dict)
    migrated: asyncio.Event = field(default_factory=asyncio.Event)
    _postgres: Postgres | None = None
    _redis: Redis | None = None
    _events: EventEmitter | None = None

    @property
    def has_postgres(self) -> bool:
        """Whether a database is configured and the service uses one."""
        return self._postgres is not None

    @property
    def postgres(self) -> Postgres:
        """The pool of this service's schema."""
        if self._postgres is None:
            raise UnavailableError("No database is configured.", hint="Set POSTGRES_URL.")
        return self._postgres

    @property
    def redis(self) -> Redis:
        """The Redis client."""
        if self._redis is None:
            raise UnavailableError("No Redis is configured.", hint="Set REDIS_URL.")
        return self._redis

    @property
    def events(self) -> EventEmitter:
        """Where events go; durable when `emit` returns."""
        if self._events is None:
            raise UnavailableError("The event log is not open.")
        return self._events

    def client(self, target: str) -> ServiceClient:
        """Give the client of another service; the catalogue must know the edge.

        Raises:
            KeyError: the catalogue has no such edge.
        """
        return self.clients[target]

    async def refresh_dependencies(self) -> None:
        """Ask the stores whether they answer, half a second at most, and set their gauges."""
        for name, component in (await self.health.run_checks("postgres", "redis")).items():
            # From the result: a check that ran out of time was cut before it could say so itself.
            self.dependencies.up.labels(name).set(int(component.status == "ok"))

    async def close(self) -> None:
        """Close what was opened here, in reverse order."""
        for client in self.clients.values():
            await client.close()
        if self._redis is not None:
            # A server that is late to hear of it must not break the shutdown.
            with suppress(*REDIS_UNAVAILABLE):
                await self._redis.aclose()
        if self._postgres is not None:
            await self._postgres.close()


def build_platform(
    service: str, settings: ServiceSettings, *, events: EventEmitter | None = None
) -> Platform:
    """Build the platform of one service; nothing connects before first use.

    Args:
        service: catalogue name.
        settings: the service's settings.
        events: replaces the write-ahead log, in tests.

    Raises:
        SettingsError: keys are missing while identities are required, or open mode off loopback.
    """
    entry = SERVICES[service]
    registry = CollectorRegistry(auto_describe=True)
    ProcessMetrics(service, VERSION, registry)
    signer, verifier = _identity(service, settings)
    platform = Platform(
        entry=entry,
        settings=settings,
        health=Health(service, VERSION),
        registry=registry,
        dependencies=DependencyMetrics(service, registry),
        signer=signer,
        verifier=verifier,
        _events=events,
    )
    if entry.postgres and settings.postgres_url:
        platform._postgres = Postgres(
            settings.postgres_url.get_secret_value(),
            service,
            pool_max=settings.postgres_pool_max,
            command_timeout_s=settings.statement_timeout_s,
        )
        platform.health.add_check("postgres", lambda: _postgres_check(platform))
    if entry.redis and settings.redis_dsn:
        platform._redis = create_redis(settings.redis_dsn, timeout_s=settings.redis_timeout_s)
        platform.health.add_check("redis", lambda: _redis_check(platform))
    targets = set(entry.calls) | ({"audit"} if entry.emits else set())
    platform.clients = {
        target: ServiceClient(target, settings.url_of(target), signer)
        for target in sorted(targets - {service})
    }
    if service == "audit":
        # Audit ships its own events to itself, over the same door as everybody else.
        platform.clients["audit"] = ServiceClient(
            "audit", f"http://127.0.0.1:{settings.listen_port}", signer
        )
    return platform


def _identity(service: str, settings: ServiceSettings) -> tuple[Signer | None, Verifier | None]:
    is_open = settings.identity_mode == "open"
    if is_open and settings.host not in {"127.0.0.1", "::1", "localhost"}:
        raise SettingsError(
            f"{service}: IDENTITY_MODE=open is allowed on loopback only; "
            f"BIND_HOST is {settings.host}"
        )
    try:
        signer = Signer.from_directory(service, settings.keys_path)
    except FileNotFoundError:
        if is_open:
            return None, None
        raise SettingsError(
            f"{service}: no signing key {service}.key in {settings.keys_path}; the local runner "
            "and the Helm chart make it, or run: python -m libs.common.keys DIRECTORY"
        ) from None
    return signer, Verifier(service, settings.keys_path, callers_of(service))


async def _postgres_check(platform: Platform) -> Component:
    is_up = await platform.postgres.is_up()
    platform.dependencies.up.labels("postgres").set(int(is_up))
    return Component("ok" if is_up else "down")


async def _redis_check(platform: Platform) -> Component:
    try:
        await platform.redis.ping()
        is_up = True
    except REDIS_UNAVAILABLE:
        is_up = False
    platform.dependencies.up.labels("redis").set(int(is_up))
    return Component("ok" if is_up else "down")


def state_of(platform: Platform) -> dict[str, Any]:
    """Give the lifespan state that routes find under `request.state`."""
    return {"platform": platform}
