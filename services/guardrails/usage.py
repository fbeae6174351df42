"""Memory and CPU of this process against the thresholds of its settings."""

import os
import resource
import time
from typing import Any

_PAGE = os.sysconf("SC_PAGE_SIZE")


def _resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * _PAGE


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Usage:
    """Reads usage; the CPU share is over the time since the last report."""

    def __init__(self, *, memory_bytes_max: int, cpu_share_max: float) -> None:
        """Start now.

        Args:
            memory_bytes_max: resident bytes above which memory is `high`.
            cpu_share_max: cores in use above which CPU is `high`.
        """
        self._memory_max = memory_bytes_max
        self._cpu_max = cpu_share_max
        self._read = (time.monotonic(), _cpu_s())

    def report(self) -> dict[str, Any]:
        """Give `memory` and `cpu` with value, threshold and status."""
        now, spent = time.monotonic(), _cpu_s()
        before, spent_before = self._read
        self._read = (now, spent)
        share = (spent - spent_before) / max(now - before, 1e-3)
        resident = _resident_bytes()
        return {
            "memory": {
                "resident_bytes": resident,
                "threshold_bytes": self._memory_max,
                "status": "high" if resident > self._memory_max else "ok",
            },
            "cpu": {
                "seconds": round(spent, 3),
                "cores": round(share, 3),
                "threshold_cores": self._cpu_max,
                "load_1m": round(os.getloadavg()[0], 2),
                "status": "high" if share > self._cpu_max else "ok",
            },
        }
