"""Background polling of the services: health every two seconds, API description when it changes."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from libs.common.catalog import SERVICES
from libs.common.errors import ServiceError
from libs.common.health import Component, ComponentStatus, Health
from libs.common.http_client import ServiceClient
from libs.common.platform import VERSION
from services.gateway.domain.api_description import merge

_HEALTH_EVERY_S = 2.0
_DESCRIPTION_EVERY_S = 30.0
_TIMEOUT_S = 1.0
_STATES: Mapping[str, ComponentStatus] = {"ok": "ok", "degraded": "degraded"}


@dataclass(frozen=True, slots=True)
class ServiceState:
    """What the last poll of one service said; `latency_ms` is the poll's own round trip."""

    status: ComponentStatus = "down"
    detail: str = "not polled yet"
    latency_ms: float = 0.0
    version: str = ""
    uptime_s: float = 0.0
    ready: bool = False
    components: Mapping[str, str] = field(default_factory=dict)


class Monitor:
    """Knows how the services are and what they offer; asks in the background only."""

    def __init__(self, clients: Mapping[str, ServiceClient], own: Health) -> None:
        self._clients = clients
        self._own = own
        self.states: dict[str, ServiceState] = {name: ServiceState() for name in clients}
        self._documents: dict[str, Mapping[str, Any]] = {}
        self._description: bytes | None = None
        for name in clients:
            own.add_check(name, self._check_of(name))

    async def run(self) -> None:
        """Poll until cancelled."""
        next_description = 0.0
        while True:
            await asyncio.gather(*(self._poll(name) for name in self._clients))
            now = time.monotonic()
            missing = set(self._clients) - set(self._documents)
            if now >= next_description or missing:
                next_description = now + _DESCRIPTION_EVERY_S
                await asyncio.gather(*(self._describe(name) for name in self._clients))
            await asyncio.sleep(_HEALTH_EVERY_S)

    def description(self, own: Mapping[str, Any]) -> bytes:
        """Give the merged OpenAPI document; parts of services that are down stay as last seen."""
        if self._description is None:
            routes = [(name, route) for name, entry in SERVICES.items() for route in entry.routes]
            document = merge({"gateway": own, **self._documents}, routes, version=VERSION)
            self._description = orjson.dumps(document)
        return self._description

    async def _poll(self, name: str) -> None:
        started = time.perf_counter()
        try:
            reply = await self._clients[name].request("GET", "/health", timeout_s=_TIMEOUT_S)
            body = reply.json()
            latency = round((time.perf_counter() - started) * 1e3, 2)
            self.states[name] = _state_of(body, latency)
        except ServiceError as error:
            self.states[name] = ServiceState(detail=error.problem_code)
        except (ValueError, AttributeError, TypeError):
            self.states[name] = ServiceState(detail="unreadable health report")

    async def _describe(self, name: str) -> None:
        try:
            reply = await self._clients[name].request("GET", "/openapi.json", timeout_s=_TIMEOUT_S)
            if reply.status == 200:
                document = reply.json()
                if isinstance(document, dict) and document != self._documents.get(name):
                    self._documents[name] = document
                    self._description = None
        except (ServiceError, ValueError):
            return  # the last good part stays

    def _check_of(self, name: str) -> Any:
        async def check() -> Component:
            state = self.states[name]
            facts: dict[str, Any] = {"kind": "service"}
            if state.version:
                facts |= {
                    "version": state.version,
                    "uptime_seconds": state.uptime_s,
                    "latency_ms": state.latency_ms,
                    "ready": state.ready,
                }
            return Component(state.status, state.detail, facts)

        return check


def _state_of(body: Mapping[str, Any], latency_ms: float) -> ServiceState:
    components = body.get("components") or {}
    return ServiceState(
        status=_STATES.get(str(body.get("status")), "down"),
        detail="",
        latency_ms=latency_ms,
        version=str(body.get("version", "")),
        uptime_s=float(body.get("uptime_seconds") or 0.0),
        ready=bool(body.get("ready")),
        components={
            str(name): str(part.get("status", ""))
            for name, part in components.items()
            if isinstance(part, dict)
        },
    )
