"""When a call may be sent again, and how often: once per call, within a budget per upstream."""

from collections import deque

BUDGET_SHARE = 0.2
BUDGET_MIN = 3
WINDOW_S = 10.0
JITTER_MIN_S = 0.025
JITTER_MAX_S = 0.250
IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
RETRIED_STATUSES = frozenset({502, 503, 504})


class RetryBudget:
    """Retries are at most a fifth of the requests of the last ten seconds, and three in any case.

    A storm of failures then costs the upstream a fifth more load, not twice as much.
    """

    def __init__(self) -> None:
        self._cells: deque[list[float]] = deque()  # [second, requests, retries]

    def request(self, now: float) -> None:
        """Count a request."""
        self._cell(now)[1] += 1

    def allow(self, now: float) -> bool:
        """Take one retry from the budget, if there is one."""
        cell = self._cell(now)
        requests = sum(c[1] for c in self._cells)
        retries = sum(c[2] for c in self._cells)
        if retries + 1 > max(float(BUDGET_MIN), BUDGET_SHARE * requests):
            return False
        cell[2] += 1
        return True

    def _cell(self, now: float) -> list[float]:
        while self._cells and self._cells[0][0] <= int(now) - WINDOW_S:
            self._cells.popleft()
        if not self._cells or self._cells[-1][0] != int(now):
            self._cells.append([int(now), 0, 0])
        return self._cells[-1]


def may_retry(method: str, *, retry_safe: bool, replayable: bool) -> bool:
    """Say whether the request may be sent again at all."""
    return replayable and (retry_safe or method in IDEMPOTENT)


def delay_s(random: float) -> float:
    """Give the wait before a retry from a random number in [0, 1): full jitter."""
    return JITTER_MIN_S + random * (JITTER_MAX_S - JITTER_MIN_S)
