"""A circuit breaker: stops calling what keeps failing, and asks again with one probe at a time.

Opens at >= 50 % failures among >= 20 calls of the last 10 s, or after 5 connection errors in a row.
Stays open 2 s, doubling up to 30 s while probes fail. What is a failure is the caller's choice:
refusals, sheds and callers who left are none.
"""

from typing import Literal

WINDOW_S = 10
CALLS_MIN = 20
FAILURE_SHARE = 0.5
CONNECT_ERRORS_MAX = 5
OPEN_S_MIN = 2.0
OPEN_S_MAX = 30.0

State = Literal["closed", "open", "half_open"]


class Breaker:
    """The breaker of one upstream; the clock is passed in, seconds, monotonic."""

    def __init__(self) -> None:
        self._cells: dict[int, list[int]] = {}  # second -> [calls, failures]
        self._connect_errors = 0
        self._open_s = OPEN_S_MIN
        self._open_until = 0.0
        self._is_probing = False
        self.state: State = "closed"

    def wait_s(self, now: float) -> float:
        """Ask to call: 0 means go (and report the outcome), else seconds until the next probe."""
        if self.state == "closed":
            return 0.0
        if self.state == "open":
            if now < self._open_until:
                return self._open_until - now
            self.state = "half_open"
        if self._is_probing:
            return OPEN_S_MIN
        self._is_probing = True
        return 0.0

    def succeeded(self, now: float) -> None:
        """Report a call that went well."""
        self._connect_errors = 0
        if self.state == "half_open":
            self._close()
        self._count(now, failed=0)

    def failed(self, now: float, *, connect: bool = False) -> None:
        """Report a failure; `connect` when not even a connection came about."""
        if self.state == "half_open":
            self._open_s = min(OPEN_S_MAX, self._open_s * 2)
            self._open(now)
            return
        self._count(now, failed=1)
        self._connect_errors = self._connect_errors + 1 if connect else 0
        calls, failures = self._sums(now)
        is_failing = calls >= CALLS_MIN and failures >= FAILURE_SHARE * calls
        if self.state == "closed" and (is_failing or self._connect_errors >= CONNECT_ERRORS_MAX):
            self._open(now)

    def abandoned(self) -> None:
        """Report a call without outcome: its caller left."""
        self._is_probing = False

    def _open(self, now: float) -> None:
        self.state = "open"
        self._open_until = now + self._open_s
        self._is_probing = False
        self._connect_errors = 0
        self._cells.clear()

    def _close(self) -> None:
        self.state = "closed"
        self._open_s = OPEN_S_MIN
        self._is_probing = False
        self._cells.clear()

    def _count(self, now: float, *, failed: int) -> None:
        cell = self._cells.get(int(now))
        if cell is None:
            oldest = int(now) - WINDOW_S
            self._cells = {at: cell for at, cell in self._cells.items() if at > oldest}
            cell = self._cells[int(now)] = [0, 0]
        cell[0] += 1
        cell[1] += failed

    def _sums(self, now: float) -> tuple[int, int]:
        live = [cell for at, cell in self._cells.items() if at > int(now) - WINDOW_S]
        return sum(cell[0] for cell in live), sum(cell[1] for cell in live)
