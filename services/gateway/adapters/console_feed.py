"""The figures of the console: health from the monitor, traffic from the edge."""

import time
from collections.abc import Mapping
from typing import Any

from libs.common.catalog import SERVICES
from libs.common.health import Health
from libs.common.platform import VERSION
from services.gateway.adapters.monitor import Monitor
from services.gateway.domain.sparkline import sparkline
from services.gateway.domain.traffic import TrafficWindow

ALL = "all"
_CARD = (240, 40)
_WIDE = (960, 120)


class ConsoleFeed:
    """Implements ConsoleFigures."""

    def __init__(
        self, monitor: Monitor, traffic: Mapping[str, TrafficWindow], health: Health
    ) -> None:
        self._monitor = monitor
        self._traffic = traffic
        self._health = health

    @property
    def is_draining(self) -> bool:
        """Whether live streams should end."""
        return self._health.is_draining

    def snapshot(self) -> dict[str, Any]:
        """Give everything the page shows."""
        now = time.monotonic()
        total = self._traffic[ALL].snapshot(now)
        services = [self._service(name, now) for name in SERVICES]
        return {
            "version": VERSION,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "ready": self._health.is_ready,
            "up": sum(service["status"] == "ok" for service in services),
            "total": {
                **_figures(total),
                "rate_line": sparkline(total["rate"], *_WIDE),
                "rate_peak": max(total["rate"]),
                "p95_line": sparkline(total["p95_series_ms"], *_WIDE),
                "p95_peak_ms": max(total["p95_series_ms"]),
            },
            "services": services,
        }

    def _service(self, name: str, now: float) -> dict[str, Any]:
        seen = self._traffic[name].snapshot(now)
        entry = SERVICES[name]
        shown: dict[str, Any] = {
            "name": name,
            "summary": entry.summary,
            **_figures(seen),
            "rate_line": sparkline(seen["rate"], *_CARD),
        }
        if name == "gateway":
            uptime = time.time() - self._health.started_at
            state = "ok" if self._health.is_ready else "degraded"
            return {
                **shown, "status": state, "detail": "", "version": VERSION,
                "uptime": _span(uptime), "poll_ms": 0.0, "components": {},
            }  # fmt: skip
        polled = self._monitor.states[name]
        return {
            **shown,
            "status": polled.status,
            "detail": polled.detail,
            "version": polled.version,
            "uptime": _span(polled.uptime_s) if polled.version else "-",
            "poll_ms": polled.latency_ms,
            "components": dict(polled.components),
        }


def _figures(seen: Mapping[str, Any]) -> dict[str, Any]:
    names = ("requests", "errors", "requests_per_s", "p50_ms", "p95_ms", "p99_ms")
    return {name: seen[name] for name in names}


def _span(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
