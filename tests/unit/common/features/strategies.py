"""Small worlds in which windows, ties and boundaries meet often."""

from typing import Any

from hypothesis import strategies as st

from tests.unit.common.features.oracle import DAY, HOUR, Interaction, Payment

# Steps that land on, just before and just after every window edge, and long silences.
_HOURS = [HOUR - 1, HOUR, HOUR + 1]
_DAYS = [DAY - 1, DAY, DAY + 1, 7 * DAY, 29 * DAY, 30 * DAY, 31 * DAY, 90 * DAY]
STEP = st.sampled_from([0, 0, 1, 999, *_HOURS, *_DAYS])
START_MS = 1_750_000_000_123
_CODE = st.sampled_from([-1, 1, 2])


@st.composite
def payments(draw, size_max=25):
    """Payments in time order; -1 is an unknown attribute."""
    now, result = START_MS, []
    for _ in range(draw(st.integers(0, size_max))):
        now += draw(STEP)
        result.append(
            Payment(
                now,
                draw(st.integers(0, 1)),
                draw(_CODE),
                draw(st.integers(0, 10**7)),
                draw(st.sampled_from([-1, 5411, 6011])),
                draw(_CODE),
                draw(_CODE),
            )
        )
    return result


@st.composite
def interactions(draw, size_max=25):
    """Views, carts and purchases in time order."""
    now, result = START_MS, []
    for _ in range(draw(st.integers(0, size_max))):
        now += draw(STEP)
        result.append(interaction(draw, now))
    return result


def interaction(draw: Any, now: int) -> Interaction:
    return Interaction(
        now,
        draw(st.integers(0, 1)),
        draw(st.integers(0, 2)),
        draw(st.integers(0, 2)),
        draw(_CODE),
        draw(_CODE),
        draw(st.sampled_from([-1, 0, 1999, 123_456])),
    )
