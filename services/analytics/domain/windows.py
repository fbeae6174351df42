"""Time windows: half-open, UTC, aligned to minutes; hours where whole hours fit."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
WINDOW_MINUTES_MAX = 1440
# Events reach the audit log within this time in health; a minute is closed after it.
SETTLE = timedelta(seconds=5)


def floor_minute(at: datetime) -> datetime:
    """Cut to the start of the minute."""
    return at.replace(second=0, microsecond=0)


def floor_hour(at: datetime) -> datetime:
    """Cut to the start of the hour."""
    return at.replace(minute=0, second=0, microsecond=0)


@dataclass(frozen=True, slots=True)
class Window:
    """`[start, end)`, both aligned to minutes, in UTC."""

    start: datetime
    end: datetime

    @property
    def minutes(self) -> int:
        """Length in minutes."""
        return int((self.end - self.start) / MINUTE)

    def previous(self) -> "Window":
        """Give the window of equal length that ends where this one starts."""
        return Window(self.start - (self.end - self.start), self.start)

    def elapsed_s(self, now: datetime) -> float:
        """Seconds of the window that have passed at `now`."""
        return max(0.0, (min(self.end, now) - self.start).total_seconds())

    def split(self) -> "Split":
        """Cut into whole hours in the middle and minutes at both edges."""
        first = floor_hour(self.start + HOUR - timedelta(microseconds=1))
        last = floor_hour(self.end)
        if first >= last:
            return Split(self.start, self.end, self.end, self.end)
        return Split(self.start, first, last, self.end)


@dataclass(frozen=True, slots=True)
class Split:
    """Minutes in `[start, hours_start)` and `[hours_end, end)`, hours between."""

    start: datetime
    hours_start: datetime
    hours_end: datetime
    end: datetime


def open_window(now: datetime, minutes: int) -> Window:
    """Give the window that ends with the running minute, so that the newest request is seen."""
    end = floor_minute(now.astimezone(UTC)) + MINUTE
    return Window(end - minutes * MINUTE, end)


def closed_window(now: datetime, minutes: int) -> Window:
    """Give the window that ends with the last closed minute: its figures no longer move."""
    end = floor_minute(now.astimezone(UTC) - SETTLE)
    return Window(end - minutes * MINUTE, end)


def aligned_window(now: datetime, minutes: int) -> Window:
    """Give a closed window whose end stays for a while, so that a repeated question is the same.

    Windows of half an hour and more end at multiples of five minutes, shorter ones at multiples of
    a sixth of their length, at least a minute.
    """
    step = min(5, max(1, minutes // 6))
    end = closed_window(now, 1).end
    end -= (end.minute % step) * MINUTE
    return Window(end - minutes * MINUTE, end)


def window_ending(end: datetime, minutes: int) -> Window:
    """Give the window that ends at `end`, cut to the minute."""
    aligned = floor_minute(end.astimezone(UTC))
    return Window(aligned - minutes * MINUTE, aligned)
