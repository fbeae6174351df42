"""The scheduler's core: who is admitted, who goes next, what forms a batch; pure, clock passed in.

No timer: a free executor asks `form` and takes what is there. Queues are bounded in items and
tokens; work that cannot meet its deadline is refused at the door. Batches are cut from a window
sorted by length, around an anchor, under a padded-token budget.
"""

import math
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

from services.inference.domain.cost import CostModel

URGENT, DEFAULT, BULK, SHADOW = 1, 2, 3, 4
_LANES = (URGENT, DEFAULT, BULK, SHADOW)
PAD_MULTIPLE = 8
WINDOW_BATCHES = 8
# Share of the queue that a batch is chosen from, oldest first: whoever is behind the first third
# overtakes nobody. From the whole queue, lengths fit better and the unlucky wait longer: with 64
# callers p99 was 157 ms in place of 128 at the same rate (docs/benchmarks/inference_text.md).
WINDOW_SHARE = 1 / 3
# Predictions are means: a queue let grow to the very deadline would miss every other one. At twice
# the capacity, answers in time fell to 75 % of it without this factor on the predicted wait.
WAIT_MARGIN = 1.3

ShedReason = Literal["queue_full", "deadline"]
DispatchReason = Literal["idle", "size", "budget", "waste", "deadline"]
SkipReason = Literal["cancelled", "expired"]


@dataclass(frozen=True, slots=True)
class Work:
    """One item: its length is known before it queues; times are seconds of the caller's clock."""

    key: int
    length: int
    enqueued_s: float
    deadline_s: float
    priority: int = DEFAULT


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one queue and its batches.

    Attributes:
        batch_items: items per batch at most.
        batch_tokens: `n * longest` at most, unless one item alone exceeds it.
        waste: `n * longest / sum of lengths` at most.
        queue_items / queue_tokens: bounds of what waits.
        pad_multiple: lengths are padded to a multiple of this.
        executors: how many take batches out of this queue.
    """

    batch_items: int = 32
    batch_tokens: int = 4096
    waste: float = 1.2
    queue_items: int = 1024
    queue_tokens: int = 131_072
    pad_multiple: int = PAD_MULTIPLE
    executors: int = 1


@dataclass(frozen=True, slots=True)
class Shed:
    """Refused at the door; the caller may come back after `retry_after_s` whole seconds."""

    reason: ShedReason
    retry_after_s: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Items to run together, padded to `padded_length`."""

    items: tuple[Work, ...]
    padded_length: int
    reason: DispatchReason

    @property
    def real_tokens(self) -> int:
        """Tokens without padding."""
        return sum(item.length for item in self.items)


@dataclass(slots=True)
class Formed:
    """What one look at the queue gave: a batch, and work dropped on the way."""

    batch: Batch | None
    skipped: list[tuple[Work, SkipReason]] = field(default_factory=list)


class BatchQueue:
    """Everything that waits for the executors of one version; single-threaded by contract."""

    def __init__(self, limits: Limits, cost: CostModel) -> None:
        self._limits = limits
        self._cost = cost
        self._lanes: dict[int, OrderedDict[int, Work]] = {lane: OrderedDict() for lane in _LANES}
        self._cancelled: set[int] = set()
        self._lane_tokens = dict.fromkeys(_LANES, 0)
        self.items = 0
        self.tokens = 0
        self.budget_tokens = limits.batch_tokens

    @property
    def has_full_batch(self) -> bool:
        """Whether more waits than one batch takes."""
        return self.items >= self._limits.batch_items or self.tokens >= self.budget_tokens

    def shrink(self) -> None:
        """Halve the token budget of a batch: the device had no memory for one."""
        self.budget_tokens = max(1, self.budget_tokens // 2)

    def regain(self) -> None:
        """Raise a halved budget by 5 %, up to its limit."""
        self.budget_tokens = min(
            self._limits.batch_tokens, self.budget_tokens + max(1, self.budget_tokens // 20)
        )

    def admit(self, work: Work, now: float, busy_s: float = 0.0) -> tuple[Shed | None, list[Work]]:
        """Queue work, or say why not.

        Args:
            work: its key must be new.
            now: clock.
            busy_s: predicted rest of the batch that runs.

        Returns:
            The refusal, if any, and shadow work that was dropped to make room.
        """
        if work.priority not in self._lanes or work.length < 1:
            raise ValueError("priority is 1 to 4 and length at least 1")
        wait_s = busy_s + self._drain_s(up_to=work.priority)
        own_s = self._cost.predict_s(1, work.length)
        if now + WAIT_MARGIN * wait_s + own_s > work.deadline_s:
            return Shed("deadline", self._retry_after_s(busy_s)), []
        dropped = self._make_room(work)
        if dropped is None:
            return Shed("queue_full", self._retry_after_s(busy_s)), []
        lane = self._lanes[work.priority]
        assert work.key not in lane, "a key queues once"
        lane[work.key] = work
        self._lane_tokens[work.priority] += work.length
        self.items += 1
        self.tokens += work.length
        return None, dropped

    def cancel(self, key: int) -> None:
        """Mark queued work as no longer wanted; it is skipped when its turn comes."""
        if any(key in lane for lane in self._lanes.values()):
            self._cancelled.add(key)

    def form(self, now: float) -> Formed:
        """Take the next batch out of the queue; None when nothing live waits."""
        formed = Formed(None)
        self._drop_dead(now, formed)
        window = self._window()
        if not window:
            return formed
        anchor = self._anchor(window, now)
        if anchor not in window:
            window[-1] = anchor
        waste = self._cost.waste_max(anchor.length, self._limits.waste)
        bounds = _Bounds(self._cap(anchor), self.budget_tokens, waste, now, self._cost)
        chosen, reason = _grow(anchor, window, bounds)
        for work in chosen:
            self._remove(work)
        longest = max(work.length for work in chosen)
        multiple = self._limits.pad_multiple
        padded = -(-longest // multiple) * multiple
        formed.batch = Batch(tuple(chosen), padded, reason)
        return formed

    def _cap(self, anchor: Work) -> int:
        return self._cost.best_items(anchor.length, self._limits.batch_items)

    def _window(self) -> list[Work]:
        """Give the first third of the queue, by priority, then by arrival; two to eight batches."""
        ordered = (work for lane in _LANES for work in self._lanes[lane].values())
        found = list(islice(ordered, 1))
        if found:
            share = max(2 * self._cap(found[0]), math.ceil(self.items * WINDOW_SHARE))
            size = min(WINDOW_BATCHES * self._limits.batch_items, share)
            found += islice(ordered, size - 1)
        return found

    def _anchor(self, window: list[Work], now: float) -> Work:
        """Choose whom the batch is built around.

        The oldest whose deadline is half spent goes first, whatever its priority, so that no lane
        starves; shadow work never does. Else the most urgent, by priority, then deadline.
        """
        oldest = min(self._heads(), key=lambda work: work.enqueued_s, default=None)
        if oldest and now - oldest.enqueued_s >= (oldest.deadline_s - oldest.enqueued_s) / 2:
            return oldest
        return min(window, key=lambda work: (work.priority, work.deadline_s))

    def _heads(self) -> Iterator[Work]:
        for lane in (URGENT, DEFAULT, BULK):
            yield from islice(self._lanes[lane].values(), 1)

    def _drop_dead(self, now: float, formed: Formed) -> None:
        for lane in self._lanes.values():
            for work in list(lane.values()):
                if work.key in self._cancelled:
                    formed.skipped.append((work, "cancelled"))
                elif work.deadline_s <= now + self._cost.predict_s(1, work.length):
                    # Running it would take time from work that can still be in time.
                    formed.skipped.append((work, "expired"))
        for work, _ in formed.skipped:
            self._remove(work)

    def _make_room(self, work: Work) -> list[Work] | None:
        """Drop shadow work, newest first, until `work` fits; None when it cannot fit."""
        spare = list(reversed(self._lanes[SHADOW].values())) if work.priority != SHADOW else []
        items, tokens, dropped = self.items, self.tokens, []
        limits = self._limits
        while items + 1 > limits.queue_items or tokens + work.length > limits.queue_tokens:
            if not spare:
                return None
            victim = spare.pop(0)
            dropped.append(victim)
            items, tokens = items - 1, tokens - victim.length
        for victim in dropped:
            self._remove(victim)
        return dropped

    def _remove(self, work: Work) -> None:
        del self._lanes[work.priority][work.key]
        self._cancelled.discard(work.key)
        self._lane_tokens[work.priority] -= work.length
        self.items -= 1
        self.tokens -= work.length

    def _drain_s(self, up_to: int) -> float:
        """Predict how long the queued work of these priorities takes; shadow counts only itself."""
        lanes = [lane for lane in _LANES if lane <= up_to]
        count = sum(len(self._lanes[lane]) for lane in lanes)
        if count == 0:
            return 0.0
        mean = math.ceil(sum(self._lane_tokens[lane] for lane in lanes) / count)
        cap = self._cost.best_items(mean, self._limits.batch_items)
        per_batch = max(1, min(cap, self.budget_tokens // mean))
        batch_s = self._cost.predict_s(min(per_batch, count), mean)
        return math.ceil(count / per_batch) * batch_s / self._limits.executors

    def _retry_after_s(self, busy_s: float) -> int:
        return max(1, math.ceil(busy_s + self._drain_s(up_to=BULK)))


@dataclass(frozen=True, slots=True)
class _Bounds:
    """What stops a batch from growing."""

    items: int
    tokens: int
    waste: float
    now: float
    cost: CostModel

    def blocks(
        self, rows: int, longest: int, total: int, deadline_s: float
    ) -> DispatchReason | None:
        """Say which bound a batch of these figures would break.

        Args:
            rows, longest, total: items, longest length and sum of lengths.
            deadline_s: the earliest among its members.
        """
        if rows * longest > self.tokens:
            return "budget"
        if rows * longest > self.waste * total:
            return "waste"
        if self.now + self.cost.predict_s(rows, longest) > deadline_s:
            return "deadline"
        return None


def _grow(anchor: Work, window: list[Work], bounds: _Bounds) -> tuple[list[Work], DispatchReason]:
    """Add the neighbours nearest in length until a bound stops both directions."""
    ordered = sorted(window, key=lambda work: (work.length, work.key))
    at = bisect_left(ordered, (anchor.length, anchor.key), key=lambda work: (work.length, work.key))
    low, high = at - 1, at + 1
    chosen, total, longest = [anchor], anchor.length, anchor.length
    earliest = anchor.deadline_s
    reason: DispatchReason = "idle"
    while low >= 0 or high < len(ordered):
        if len(chosen) >= bounds.items:
            return chosen, "size"
        takes_low = high >= len(ordered) or (
            low >= 0 and anchor.length - ordered[low].length <= ordered[high].length - anchor.length
        )
        neighbour = ordered[low] if takes_low else ordered[high]
        rows, top = len(chosen) + 1, max(longest, neighbour.length)
        soonest = min(earliest, neighbour.deadline_s)
        blocked = bounds.blocks(rows, top, total + neighbour.length, soonest)
        if blocked is not None:
            reason = blocked
            low, high = (-1, high) if takes_low else (low, len(ordered))
            continue
        chosen.append(neighbour)
        total, longest, earliest = total + neighbour.length, top, soonest
        low, high = (low - 1, high) if takes_low else (low, high + 1)
    return chosen, reason
