"""Windows over labels that arrive late: `(t - delay - w, t - delay]`, by the event's own time.

The offline half of the shipped view of delayed frauds; the same function feeds the
fraud benchmark. Needs numpy.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from libs.common.features.contract import FloatArray

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class DelayedLabels:
    """Labelled events of entities, sorted by time; each array of shape (n,).

    Attributes:
        event_ms: Unix milliseconds, ascending.
        entity: any integer code.
        is_positive: the label, known `delay_ms` after the event.
    """

    event_ms: IntArray
    entity: IntArray
    is_positive: NDArray[np.bool_]

    def windows(
        self, delay_ms: int, windows_ms: tuple[int, ...], *, tile_ms: int = 1
    ) -> list[tuple[FloatArray, FloatArray]]:
        """Count events and their positive share in each delayed window, at each event.

        Args:
            delay_ms: how far the windows end before the event.
            windows_ms: their lengths.
            tile_ms: 1: `(t - d - w, t - d]`; longer: tiles, `[floor(t - d - w), floor(t - d))`.

        Returns:
            Per window (count, rate), each of shape (n,); the rate is 0 where the window is empty.
        """
        _, number = np.unique(self.entity, return_inverse=True)
        order = np.argsort(number, kind="stable")
        if not len(order):
            return [(np.empty(0), np.empty(0)) for _ in windows_ms]
        time = self.event_ms - self.event_ms[0]
        # Wider than the period and the longest reach back, so that no window leaves its entity.
        stride = int(time[-1]) + delay_ms + max(windows_ms) + tile_ms + 1
        base = number[order] * stride
        keys = base + time[order]
        first_ms = int(self.event_ms[0])

        def places(back_ms: int) -> IntArray:
            """Give how many keys lie at or before each event's time, less `back_ms`, in tiles."""
            at = time[order] - back_ms
            if tile_ms > 1:
                # Just before the tile's first moment, as that belongs to the window.
                at = (at + first_ms) // tile_ms * tile_ms - first_ms - 1
            place: IntArray = keys.searchsorted(base + np.maximum(at, -1), "right")
            return place

        positives = np.concatenate(([0], np.cumsum(self.is_positive[order])))
        end = places(delay_ms)
        found: list[tuple[FloatArray, FloatArray]] = []
        for window_ms in windows_ms:
            start = places(delay_ms + window_ms)
            count = np.empty(len(order))
            rate = np.empty(len(order))
            count[order] = end - start
            rate[order] = (positives[end] - positives[start]) / np.maximum(end - start, 1)
            found.append((count, rate))
        return found
