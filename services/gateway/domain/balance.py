"""Which instance of a service gets a call: the one with the fewest calls in flight, bad ones out.

An instance that fails five times in a row is left out for five seconds, twice as long each time it
fails again, at most a minute. At least half of the instances stay in: when more than that fail, the
fault is not one instance's, and leaving all out would turn a bad minute into a dead service.
"""

from collections.abc import Sequence

FAILURES_MAX = 5
OUT_S_MIN = 5.0
OUT_S_MAX = 60.0


class Outlier:
    """How one instance has done lately; the clock is passed in, seconds, monotonic."""

    __slots__ = ("_failures", "_out_s", "_out_until")

    def __init__(self) -> None:
        self._failures = 0
        self._out_s = OUT_S_MIN
        self._out_until = 0.0

    def is_out(self, now: float) -> bool:
        """Say whether the instance is left out."""
        return now < self._out_until

    def succeeded(self) -> bool:
        """Report a good call; says whether the instance was a suspect until now."""
        was_suspect = self._out_until > 0.0
        self._failures = 0
        self._out_s = OUT_S_MIN
        self._out_until = 0.0
        return was_suspect

    def failed(self, now: float) -> bool:
        """Report a failure; says whether the instance is to be left out from now on.

        After its time out one failure is enough to leave it out again.
        """
        self._failures += 1
        if self._failures < FAILURES_MAX or self.is_out(now):
            return False
        self._out_until = now + self._out_s
        self._out_s = min(OUT_S_MAX, self._out_s * 2)
        return True


def choose(loads: Sequence[int], is_out: Sequence[bool], turn: int) -> int:
    """Give the index of the instance to call.

    Args:
        loads: calls in flight, one per instance, at least one instance.
        is_out: which of them are left out; ignored when that is more than half.
        turn: a growing number that spreads calls over equally loaded instances.
    """
    count = len(loads)
    ignored = sum(is_out) * 2 > count
    best, best_load = -1, 0
    for step in range(count):
        index = (turn + step) % count
        if is_out[index] and not ignored:
            continue
        if best < 0 or loads[index] < best_load:
            best, best_load = index, loads[index]
    return best
