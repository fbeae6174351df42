"""A Kafka topic as a source of events: it feeds the same ingestion as the HTTP route.

Messages hold one JSON event each. Offsets are committed after the Postgres commit; what a stopped
consumer had read is read again, and known events are skipped, so each counts once. Needs aiokafka
(`pip install 'gatehouse[kafka]'`). Tested against the port `EventSource` with a stand-in consumer,
never against a broker.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

import orjson

from libs.common.errors import UnavailableError

_GROUP = "gatehouse-features"
_WAIT_MS = 1000


class Consumer(Protocol):
    """What is used of `aiokafka.AIOKafkaConsumer`."""

    async def start(self) -> None:
        """Connect and join the group."""
        ...

    async def stop(self) -> None:
        """Leave the group."""
        ...

    async def getmany(self, *, timeout_ms: int, max_records: int) -> Mapping[Any, list[Any]]:
        """Give messages by partition; each has `topic`, `partition`, `offset`, `value`."""
        ...

    async def commit(self, offsets: Mapping[Any, int]) -> None:
        """Commit the next offset of each partition."""
        ...


class KafkaSource:
    """Implements `EventSource`; the order within a partition is kept."""

    def __init__(self, make: Callable[[], Consumer]) -> None:
        """Take what makes a consumer that does not commit by itself."""
        self._make = make
        self._consumer: Consumer | None = None
        self._partitions: dict[str, tuple[Any, int]] = {}

    async def open(self) -> None:
        """Connect anew; what was read and not acknowledged is given again."""
        if self._consumer is not None:
            await self._consumer.stop()
        self._partitions.clear()
        self._consumer = self._make()
        await _translated(self._consumer.start)

    async def take(self, most: int) -> list[tuple[str, Any]]:
        """Give the next messages as (id, event); one without a JSON event gives None."""
        assert self._consumer is not None, "open it first"
        consumer = self._consumer
        batches: Mapping[Any, list[Any]] = await _translated(
            lambda: consumer.getmany(timeout_ms=_WAIT_MS, max_records=most)
        )
        found = []
        for partition, messages in batches.items():
            for message in messages:
                name = f"{message.topic}/{message.partition}/{message.offset}"
                self._partitions[name] = (partition, message.offset)
                found.append((name, _event(message.value)))
        return found

    async def acknowledge(self, ids: Sequence[str]) -> None:
        """Commit what follows the highest of these in each partition."""
        assert self._consumer is not None, "open it first"
        following: dict[Any, int] = {}
        for name in ids:
            partition, offset = self._partitions.pop(name)
            following[partition] = max(following.get(partition, 0), offset + 1)
        consumer = self._consumer
        await _translated(lambda: consumer.commit(following))


def consumer_of(servers: str, topic: str) -> Callable[[], Consumer]:
    """Give what makes aiokafka's consumer of one topic.

    Raises:
        RuntimeError: aiokafka is not installed.
    """
    try:
        import aiokafka  # type: ignore[import-not-found,unused-ignore] # an extra of its own
    except ImportError:
        raise RuntimeError("Kafka needs aiokafka: pip install 'gatehouse[kafka]'") from None

    def make() -> Consumer:
        return cast(
            Consumer,
            aiokafka.AIOKafkaConsumer(
                topic,
                bootstrap_servers=servers,
                group_id=_GROUP,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
            ),
        )

    return make


def _event(value: bytes | None) -> Any:
    try:
        return orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        return None


async def _translated(call: Callable[[], Any]) -> Any:
    """Give Kafka's failures as the one that `follow` waits and opens again for."""
    try:
        return await call()
    except Exception as error:
        # aiokafka's own tree is known only where it is installed.
        if type(error).__module__.startswith("aiokafka") or isinstance(error, OSError):
            raise UnavailableError("Kafka does not answer.") from error
        raise
