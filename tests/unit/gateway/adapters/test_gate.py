"""The gate in front of a service: who waits, in which order, and who is sent away."""

import asyncio
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from services.gateway.adapters.gate import Gate, GateMetrics
from services.gateway.errors import UpstreamUnavailableError

pytestmark = pytest.mark.anyio


def gate_of(calls_max: int) -> Gate:
    return Gate("inference", GateMetrics(CollectorRegistry()), calls_max=calls_max)


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@given(lanes=st.lists(st.booleans(), min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_live_goes_before_batch_and_each_lane_in_order_of_arrival(lanes: list[bool]) -> None:
    """However calls come in, none overtakes another of its lane."""
    served: list[tuple[bool, int]] = []

    async def run() -> None:
        gate = gate_of(10)
        for _ in range(10):
            await gate.enter(is_batch=False, wait_s=5)

        async def call(number: int, *, is_batch: bool) -> None:
            await gate.enter(is_batch=is_batch, wait_s=5)
            served.append((is_batch, number))
            await asyncio.sleep(0)
            gate.leave()

        calls = [
            asyncio.create_task(call(number, is_batch=is_batch))
            for number, is_batch in enumerate(lanes)
        ]
        await turns()
        assert not served
        for _ in range(10):
            gate.leave()
        await asyncio.gather(*calls)

    asyncio.run(run())
    assert len(served) == len(lanes)
    for lane in (False, True):
        order = [number for is_batch, number in served if is_batch is lane]
        assert order == sorted(order)


async def test_a_live_call_does_not_wait_behind_a_batch_call() -> None:
    gate = gate_of(10)
    for _ in range(9):
        await gate.enter(is_batch=True, wait_s=5)
    waiting = asyncio.create_task(gate.enter(is_batch=True, wait_s=5))
    await turns()
    assert not waiting.done()  # batch may fill nine tenths
    async with asyncio.timeout(1):
        await gate.enter(is_batch=False, wait_s=5)
    gate.leave()
    await turns()
    assert not waiting.done()
    gate.leave()
    await waiting


async def test_a_call_whose_time_is_over_is_shed_and_the_next_one_is_not() -> None:
    gate = gate_of(1)
    await gate.enter(is_batch=False, wait_s=5)
    started = time.monotonic()
    patient = asyncio.create_task(gate.enter(is_batch=False, wait_s=5))
    hurried = [
        asyncio.create_task(gate.enter(is_batch=False, wait_s=0.05 + 0.001 * number))
        for number in range(20)
    ]
    for call in hurried:
        with pytest.raises(UpstreamUnavailableError, match="did not come in time"):
            await call
    assert 0.05 <= time.monotonic() - started < 1.0
    assert not patient.done()
    gate.leave()
    await patient


async def test_a_caller_who_leaves_the_queue_takes_no_turn_with_it() -> None:
    gate = gate_of(1)
    await gate.enter(is_batch=False, wait_s=5)
    first, second = (asyncio.create_task(gate.enter(is_batch=False, wait_s=5)) for _ in range(2))
    await turns()
    first.cancel()
    await turns()
    gate.leave()
    async with asyncio.timeout(1):
        await second
    gate.leave()
    third = asyncio.create_task(gate.enter(is_batch=False, wait_s=5))
    await third
    fourth = asyncio.create_task(gate.enter(is_batch=False, wait_s=5))
    await turns()
    gate.leave()  # the turn is the fourth's from now on, and it leaves before it knows
    fourth.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fourth
    async with asyncio.timeout(1):
        await gate.enter(is_batch=False, wait_s=5)
