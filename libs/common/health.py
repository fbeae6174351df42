"""Health: live, ready, and a full report.

`/livez` says that the process answers and nothing more: a store that is down must not restart pods.
`/readyz` says whether this process can serve: started, not draining, schema migrated. `/health`
lists components with state; it holds no secret, no URL with credentials, no error text of a driver.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

ComponentStatus = Literal["ok", "degraded", "down", "disabled"]


@dataclass(frozen=True, slots=True)
class Component:
    """One line of the health report."""

    status: ComponentStatus
    detail: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


Check = Callable[[], Awaitable[Component]]


class Health:
    """The process's state: starting, ready, draining; and the checks of its components."""

    def __init__(self, service: str, version: str) -> None:
        self.service = service
        self.version = version
        self.started_at = time.time()
        self._reasons: dict[str, str] = {"startup": "starting"}
        self._checks: dict[str, Check] = {}
        self.is_draining = False
        self.is_refusing = False

    def add_check(self, name: str, check: Check) -> None:
        """Add a component to `/health`; it is given half a second."""
        self._checks[name] = check

    def block(self, name: str, reason: str) -> None:
        """Keep the process not ready until `name` is released."""
        self._reasons[name] = reason

    def release(self, name: str) -> None:
        """Remove one reason for not being ready."""
        self._reasons.pop(name, None)

    def started(self) -> None:
        """Say that start-up is over."""
        self.release("startup")

    def drain(self) -> None:
        """Turn not ready for good; serving goes on until in-flight work is done."""
        self.is_draining = True
        self._reasons["draining"] = "draining"

    def refuse(self) -> None:
        """Take no new work any more; what is in flight finishes, probes are still answered."""
        self.is_refusing = True

    @property
    def is_ready(self) -> bool:
        """Whether new work should be sent here."""
        return not self._reasons

    def readiness(self) -> dict[str, Any]:
        """Give the body of `/readyz`."""
        body: dict[str, Any] = {"ready": self.is_ready, "service": self.service}
        if self._reasons:
            body["reasons"] = dict(self._reasons)
        return body

    async def report(self) -> dict[str, Any]:
        """Give the body of `/health`: overall status, version, uptime, components."""
        names = list(self._checks)
        results = await asyncio.gather(*(self._run(self._checks[name]) for name in names))
        components = {
            name: {
                "status": result.status,
                **({"detail": result.detail} if result.detail else {}),
                **result.facts,
            }
            for name, result in zip(names, results, strict=True)
        }
        states = {result.status for result in results}
        status = "ok" if states <= {"ok", "disabled"} else "degraded"
        if not self.is_ready:
            status = "unavailable"
        return {
            "status": status,
            "service": self.service,
            "version": self.version,
            "uptime_seconds": round(time.time() - self.started_at, 1),
            "ready": self.is_ready,
            "components": components,
        }

    async def run_checks(self, *names: str) -> dict[str, Component]:
        """Run the named checks, as far as they exist."""
        known = [name for name in names if name in self._checks]
        results = await asyncio.gather(*(self._run(self._checks[name]) for name in known))
        return dict(zip(known, results, strict=True))

    @staticmethod
    async def _run(check: Check) -> Component:
        try:
            async with asyncio.timeout(0.5):
                return await check()
        except Exception as error:  # a broken check must not break the report
            return Component("down", type(error).__name__)
