"""MGETs of concurrent requests in one: what is asked while one is on its way goes with the next.

A round trip through the client costs ten times what a key in it costs. A lone request is sent at
once; under load requests join, and the cost of the trip is shared. Nothing waits on a timer.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol, cast

Blobs = Mapping[str, bytes | None]
# Calls with more keys go by themselves: joined, they would only delay each other.
JOINED_KEYS_MAX = 64
# Keys of one joined MGET; more make the next one.
GROUP_KEYS_MAX = 512
# MGETs under way at once; a second one departs only when the first keeps this many waiting.
FLIGHTS_MAX = 2
SECOND_FLIGHT_FROM = 16


class KeyStore(Protocol):
    """Gives the values of keys, as `LeanRedis` does."""

    async def mget(self, keys: Sequence[str]) -> list[bytes | None]:
        """Give the values in the order of the keys, None for a key that does not exist."""
        ...


class _Group:
    """Keys that travel together, and who waits for them."""

    def __init__(self) -> None:
        self.keys: dict[str, None] = {}
        self.waiting: list[asyncio.Future[Blobs]] = []


class SharedReads:
    """Reads keys from one store. Its methods belong to one event loop."""

    def __init__(self, store: KeyStore, *, timeout_s: float) -> None:
        """Take a store and the longest time that a read may take, in seconds."""
        self._store = store
        self._timeout_s = timeout_s
        self._groups: list[_Group] = []
        self._flying = 0
        self._departing: set[asyncio.Task[None]] = set()

    async def get(self, keys: Sequence[str]) -> Blobs:
        """Give the values of the keys, perhaps with others; None for a key that does not exist.

        Raises:
            RedisError, OSError, TimeoutError: as `libs.common.redis.UNAVAILABLE`.
        """
        if self._flying and len(keys) <= JOINED_KEYS_MAX:
            future = self._join(keys)
            # One timer costs a third of `asyncio.timeout`.
            timer = asyncio.get_running_loop().call_later(self._timeout_s, _expire, future)
            try:
                return await future
            finally:
                timer.cancel()
        async with asyncio.timeout(self._timeout_s):
            return await (self._mget(keys) if self._flying else self._fly(keys))

    async def _fly(self, keys: Sequence[str]) -> Blobs:
        """Read, and let the next group depart after it."""
        self._flying += 1
        try:
            return await self._mget(keys)
        finally:
            self._flying -= 1
            self._depart()

    def _join(self, keys: Sequence[str]) -> asyncio.Future[Blobs]:
        if not self._groups or len(self._groups[-1].keys) + len(keys) > GROUP_KEYS_MAX:
            self._groups.append(_Group())
        group = self._groups[-1]
        group.keys.update(dict.fromkeys(keys))
        future: asyncio.Future[Blobs] = asyncio.get_running_loop().create_future()
        group.waiting.append(future)
        self._depart()
        return future

    def _depart(self) -> None:
        """Send waiting groups while there is room."""
        while self._groups:
            flights = self._flying + len(self._departing)
            is_short = len(self._groups[0].waiting) < SECOND_FLIGHT_FROM
            if flights >= FLIGHTS_MAX or (flights and is_short):
                return
            task = asyncio.create_task(self._carry(self._groups.pop(0)))
            self._departing.add(task)
            task.add_done_callback(self._departing.discard)

    async def _carry(self, group: _Group) -> None:
        """Read a group's keys; everybody who still waits gets what came, or what went wrong."""
        self._departing.discard(cast("asyncio.Task[None]", asyncio.current_task()))
        try:
            async with asyncio.timeout(self._timeout_s):
                blobs = await self._fly(list(group.keys))
        except Exception as error:  # whatever it was, it is the waiting ones' to handle
            for future in group.waiting:
                if not future.done():
                    future.set_exception(error)
        else:
            for future in group.waiting:
                if not future.done():
                    future.set_result(blobs)

    async def _mget(self, keys: Sequence[str]) -> Blobs:
        return dict(zip(keys, await self._store.mget(keys), strict=True))


def _expire(future: "asyncio.Future[Blobs]") -> None:
    if not future.done():
        future.set_exception(TimeoutError("The store did not answer in time."))
