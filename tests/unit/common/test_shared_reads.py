"""Reads of concurrent requests travel together, and fail for those alone whom it concerns."""

import asyncio
from collections.abc import Sequence

import pytest

from libs.common import shared_reads
from libs.common.shared_reads import SharedReads

pytestmark = pytest.mark.anyio


class SlowStore:
    """Answers when told to; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.error: Exception | None = None
        self.open = asyncio.Event()

    async def mget(self, keys: Sequence[str]) -> list[bytes | None]:
        self.asked.append(list(keys))
        await self.open.wait()
        if self.error:
            raise self.error
        return [None if key.startswith("none") else key.encode() for key in keys]


def reads_of(store: SlowStore, timeout_s: float = 5.0) -> SharedReads:
    return SharedReads(store, timeout_s=timeout_s)


async def _until(condition) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 # a count, nothing to await
            await asyncio.sleep(0)


async def test_a_lone_read_is_sent_at_once_and_holds_no_task():
    store = SlowStore()
    store.open.set()
    assert await reads_of(store).get(["a", "none"]) == {"a": b"a", "none": None}
    assert store.asked == [["a", "none"]]


async def test_what_is_asked_meanwhile_goes_together_each_key_once():
    store = SlowStore()
    reads = reads_of(store)
    asked = [asyncio.create_task(reads.get([f"k{n}", "shared"])) for n in range(10)]
    await _until(lambda: len(store.asked) == 1)
    store.open.set()
    answers = await asyncio.gather(*asked)
    for number, answer in enumerate(answers):
        assert answer[f"k{number}"] == f"k{number}".encode()
        assert answer["shared"] == b"shared"
    assert len(store.asked) == 2
    assert [keys.count("shared") for keys in store.asked] == [1] * len(store.asked)


async def test_a_slow_answer_does_not_hold_many_for_long():
    store = SlowStore()
    reads = reads_of(store)
    count = 3 * shared_reads.SECOND_FLIGHT_FROM
    asked = [asyncio.create_task(reads.get([f"k{n}"])) for n in range(count)]
    await _until(lambda: len(store.asked) == shared_reads.FLIGHTS_MAX)
    store.open.set()
    answers = await asyncio.gather(*asked)
    assert all(answer[f"k{n}"] == f"k{n}".encode() for n, answer in enumerate(answers))


async def test_a_failure_reaches_everybody_who_waited_and_the_next_read_is_fresh():
    store = SlowStore()
    reads = reads_of(store)
    asked = [asyncio.create_task(reads.get([f"k{n}"])) for n in range(6)]
    await _until(lambda: len(store.asked) == 1)
    store.error = ConnectionError("gone")
    store.open.set()
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(result, ConnectionError) for result in results)
    store.error = None
    assert await reads.get(["again"]) == {"again": b"again"}


async def test_a_store_that_hangs_costs_each_reader_its_timeout_and_no_more():
    store = SlowStore()
    reads = reads_of(store, timeout_s=0.05)
    asked = [asyncio.create_task(reads.get([f"k{n}"])) for n in range(6)]
    async with asyncio.timeout(5):
        results = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(result, TimeoutError) for result in results)
    store.open.set()
    assert await reads.get(["again"]) == {"again": b"again"}


async def test_a_reader_who_leaves_does_not_disturb_the_others():
    store = SlowStore()
    reads = reads_of(store)
    asked = [asyncio.create_task(reads.get([f"k{n}"])) for n in range(6)]
    await _until(lambda: len(store.asked) == 1)
    asked[0].cancel()
    asked[4].cancel()
    store.open.set()
    results = await asyncio.gather(*asked, return_exceptions=True)
    kept = [results[n] for n in (1, 2, 3, 5)]
    for n, result in zip((1, 2, 3, 5), kept, strict=True):
        assert isinstance(result, dict)
        assert f"k{n}" in result


async def test_large_reads_go_by_themselves_and_groups_have_a_bound(monkeypatch):
    monkeypatch.setattr(shared_reads, "GROUP_KEYS_MAX", 4)
    store = SlowStore()
    reads = reads_of(store)
    large = [f"large{n}" for n in range(shared_reads.JOINED_KEYS_MAX + 1)]
    tasks = [asyncio.create_task(reads.get(keys)) for keys in (["a"], large)]
    tasks += [asyncio.create_task(reads.get([f"k{n}", f"m{n}"])) for n in range(6)]
    await _until(lambda: len(store.asked) >= 2)
    store.open.set()
    await asyncio.gather(*tasks)
    assert large in store.asked
    assert max(len(keys) for keys in store.asked if keys != large) <= 4
