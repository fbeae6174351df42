"""The vocabulary of the catalogue: services, routes, edges. Data only, no I/O."""

from dataclasses import dataclass, field
from typing import Literal

Lane = Literal["live", "batch", "admin"]
ErrorShape = Literal["problem", "v2", "openai", "feast", "presidio", "bedrock"]
Status = Literal["built", "planned"]

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class Route:
    """One public route, as the gateway must treat it.

    Attributes:
        method: HTTP method, or `WS` for a WebSocket.
        path: template; `{name}` matches one segment, `{name:path}` the rest.
        scope: what the caller must hold; None means public.
        status: `planned` routes answer 501 until they are built.
        body_bytes_max: larger bodies are refused with 413 before they are read.
        deadline_ms / deadline_ms_max: default and largest deadline of a call.
        lane: live traffic goes before batch, batch before nothing else.
        retry_safe: the gateway may send it again although the method is not idempotent.
        error_shape: how errors are rendered for this protocol.
        text_pointers: JSON pointers to user text, checked for guarded tenants;
            `*` matches every element of a list.
        also_v1: the path is served under `/v1` as well.
        ip_quota: (requests, seconds) allowed per client address on this route, on top of the
            general policies.
        skips_ip_policy: the general per-address policy does not count this route.
        summary: one line for the README, the 404 list and OpenAPI.
    """

    method: str
    path: str
    scope: str | None
    summary: str
    status: Status = "built"
    body_bytes_max: int = 64 * KIB
    deadline_ms: int = 5_000
    deadline_ms_max: int = 30_000
    lane: Lane = "live"
    retry_safe: bool = False
    error_shape: ErrorShape = "problem"
    text_pointers: tuple[str, ...] = ()
    also_v1: bool = False
    ip_quota: tuple[int, int] | None = None
    skips_ip_policy: bool = False

    @property
    def paths(self) -> tuple[str, ...]:
        """Every public path of the route."""
        return (self.path, f"/v1{self.path}") if self.also_v1 else (self.path,)


@dataclass(frozen=True, slots=True)
class Service:
    """One deployable service.

    Attributes:
        name: also the folder, the schema in Postgres and the issuer of its identity.
        port: listening port.
        summary: what it owns, one line.
        calls: services it may call (the NetworkPolicy says the same).
        emits: whether it keeps a write-ahead log and ships events to audit.
        postgres / redis: which shared backends it uses.
        serves_without_postgres: whether it may turn ready while PostgreSQL is away.
        redis_prefixes: key prefixes it owns.
        routes: what the gateway exposes of it.
        internal: routes for other services only; the gateway never proxies them.
        memory_mib / cpu_m: resource request of one replica.
    """

    name: str
    port: int
    summary: str
    calls: tuple[str, ...] = ()
    emits: bool = True
    postgres: bool = True
    serves_without_postgres: bool = False
    redis: bool = True
    redis_prefixes: tuple[str, ...] = ()
    routes: tuple[Route, ...] = field(default=(), repr=False)
    internal: tuple[Route, ...] = field(default=(), repr=False)
    memory_mib: int = 256
    cpu_m: int = 250
    metrics_path: str = "/metrics"

    @property
    def module(self) -> str:
        """Python module that starts the service."""
        return f"services.{self.name}"
