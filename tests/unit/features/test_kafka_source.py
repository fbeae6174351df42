"""The Kafka adapter against its port, with a stand-in for aiokafka's consumer; no broker."""

import asyncio
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from libs.common.errors import UnavailableError
from services.features.adapters.kafka_source import KafkaSource, consumer_of


@dataclass(frozen=True)
class Message:
    topic: str
    partition: int
    offset: int
    value: bytes | None


class Topic:
    """Two partitions of messages and what the group has committed."""

    def __init__(self, *values: bytes | None) -> None:
        self.messages = [Message("t", n % 2, n // 2, value) for n, value in enumerate(values)]
        self.committed = {0: 0, 1: 0}
        self.is_down = False
        self.opened = 0

    def consumer(self) -> "StandIn":
        return StandIn(self)


class StandIn:
    def __init__(self, topic: Topic) -> None:
        self._topic, self._next = topic, dict(topic.committed)

    async def start(self) -> None:
        self._topic.opened += 1

    async def stop(self) -> None:
        return

    async def getmany(self, *, timeout_ms: int, max_records: int) -> Mapping[Any, list[Any]]:
        if self._topic.is_down:
            raise ConnectionError("gone")
        found: dict[int, list[Message]] = {}
        taken = 0
        for message in self._topic.messages:
            if message.offset >= self._next[message.partition] and taken < max_records:
                found.setdefault(message.partition, []).append(message)
                taken += 1
        for partition, messages in found.items():
            self._next[partition] = messages[-1].offset + 1
        return found

    async def commit(self, offsets: Mapping[Any, int]) -> None:
        self._topic.committed.update(offsets)


def test_messages_come_as_events_and_are_committed_when_acknowledged() -> None:
    topic = Topic(orjson.dumps({"a": 1}), b"nonsense", None, orjson.dumps({"a": 2}))
    source = KafkaSource(topic.consumer)

    async def run() -> list[Any]:
        await source.open()
        entries = await source.take(10)
        assert topic.committed == {0: 0, 1: 0}
        await source.acknowledge([name for name, _ in entries])
        return entries

    entries = asyncio.run(run())
    assert dict(entries) == {"t/0/0": {"a": 1}, "t/1/0": None, "t/0/1": None, "t/1/1": {"a": 2}}
    assert topic.committed == {0: 2, 1: 2}


def test_what_was_not_acknowledged_is_given_again_after_a_reconnect() -> None:
    topic = Topic(*(orjson.dumps(number) for number in range(6)))
    source = KafkaSource(topic.consumer)

    async def run() -> tuple[list[Any], list[Any]]:
        await source.open()
        first = await source.take(4)
        await source.acknowledge([name for name, _ in first[:2]])
        await source.open()
        return first, await source.take(10)

    first, again = asyncio.run(run())
    assert topic.opened == 2
    assert {name for name, _ in again} >= {name for name, _ in first[2:]}
    assert not {name for name, _ in again} & {name for name, _ in first[:2]}


def test_a_broker_that_is_gone_is_unavailable() -> None:
    topic = Topic()
    source = KafkaSource(topic.consumer)

    async def run() -> None:
        await source.open()
        topic.is_down = True
        await source.take(1)

    with pytest.raises(UnavailableError):
        asyncio.run(run())


def test_without_aiokafka_the_error_names_the_extra() -> None:
    if importlib.util.find_spec("aiokafka") is not None:
        pytest.skip("aiokafka is installed")
    with pytest.raises(RuntimeError, match=r"gatehouse\[kafka\]"):
        consumer_of("localhost:9092", "t")
