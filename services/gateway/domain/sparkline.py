"""A series as the geometry of an inline SVG; the console's policy forbids style attributes."""

from collections.abc import Sequence


def sparkline(values: Sequence[float], width: int, height: int) -> str:
    """Give the `points` of a polyline that fills `width` x `height`, the largest value on top.

    A flat series of zeros lies on the bottom line.
    """
    if len(values) < 2:
        return ""
    top = max(max(values), 1e-9)
    step = width / (len(values) - 1)
    room = height - 2  # half a stroke on either side
    return " ".join(
        f"{index * step:.1f},{height - 1 - value / top * room:.1f}"
        for index, value in enumerate(values)
    )
