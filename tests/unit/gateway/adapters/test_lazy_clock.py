"""A timer that is moved often: it fires once, never early, and leaves nothing behind."""

import asyncio
import time

import pytest

from services.gateway.adapters.lazy_clock import LazyClock

pytestmark = pytest.mark.anyio


class Fired:
    def __init__(self) -> None:
        self.times: list[float] = []
        self.clock = LazyClock(asyncio.get_running_loop(), self.note)

    def note(self) -> None:
        self.times.append(time.monotonic())


async def test_it_fires_once_at_the_time_that_was_set_last() -> None:
    fired = Fired()
    for later in (0.02, 0.2, 0.1):
        until = time.monotonic() + later
        fired.clock.set(until)
    await asyncio.sleep(0.3)
    assert len(fired.times) == 1
    assert fired.times[0] >= until


async def test_an_earlier_time_moves_the_loops_timer() -> None:
    fired = Fired()
    started = time.monotonic()
    fired.clock.set(started + 60)
    fired.clock.set(started + 0.02)
    async with asyncio.timeout(5):
        while not fired.times:  # noqa: ASYNC110 # the clock itself is what is tested
            await asyncio.sleep(0.005)
    assert fired.times[0] >= started + 0.02


async def test_stopped_or_closed_it_does_not_fire_and_can_be_set_again() -> None:
    fired = Fired()
    fired.clock.set(time.monotonic() + 0.02)
    fired.clock.stop()
    await asyncio.sleep(0.05)
    fired.clock.set(time.monotonic() + 0.02)
    fired.clock.close()
    await asyncio.sleep(0.05)
    assert fired.times == []
    fired.clock.set(time.monotonic() + 0.01)
    await asyncio.sleep(0.05)
    assert len(fired.times) == 1


async def test_moving_it_on_asks_the_loop_for_no_timer() -> None:
    class Counting:
        def __init__(self) -> None:
            self.made = 0
            self.loop = asyncio.get_running_loop()

        def call_later(self, *arguments: object) -> asyncio.TimerHandle:
            self.made += 1
            return self.loop.call_later(*arguments)  # type: ignore[arg-type]

    loop = Counting()
    clock = LazyClock(loop, lambda: None)  # type: ignore[arg-type] # as much of a loop as it uses
    for step in range(1_000):
        clock.set(time.monotonic() + 10 + step)
        clock.stop()
    assert loop.made == 1
    clock.close()
