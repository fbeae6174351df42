"""The loop of one replica: follow the records, judge the rollouts, prove the models again."""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from libs.common.errors import ServiceError
from libs.common.logging import get_logger
from services.inference.control.models import ModelControl
from services.inference.control.rollouts import RolloutControl
from services.inference.domain.control import RolloutSums

log = get_logger()

# How often counts are added up and judged, and how soon a notice is noticed.
TICK_S = 0.25


@dataclass(slots=True)
class Beat:
    """What the loop remembers between two rounds."""

    epoch: int | None = None
    followed_at: float = 0.0
    is_up: bool = True


class ControlLoop:
    """Runs until it is closed; a round that fails is logged once and tried again."""

    def __init__(
        self,
        models: ModelControl,
        rollouts: RolloutControl,
        sums: RolloutSums | None,
        *,
        reconcile_s: float,
        golden_s: float,
        also: Sequence[Coroutine[Any, Any, None]] = (),
    ) -> None:
        self._models = models
        self._rollouts = rollouts
        self._sums = sums
        self._reconcile_s = reconcile_s
        self._golden_s = golden_s
        self._also = also
        self._beat = Beat()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run around the life of the service."""
        tasks = [asyncio.create_task(work) for work in (self._run(), *self._also)]
        tasks.append(asyncio.create_task(self._rollouts.work_after()))
        try:
            yield
        finally:
            await _stop(tasks)
            await self._models.close()

    async def follow(self) -> None:
        """Read all records once; a store that is down leaves everything as it is."""
        await self._models.follow()
        await self._rollouts.follow()
        self._beat.followed_at = time.monotonic()

    async def _run(self) -> None:
        while True:
            try:
                await self._round()
                self._note(is_up=True)
            except ServiceError as error:
                self._note(is_up=False, reason=error.problem_code)
            except Exception:  # a defect in one round must not end the loop
                log.exception("a round of the control loop failed")
            await self._rollouts.wait(TICK_S)

    async def _round(self) -> None:
        await self._models.tick()
        await self._rollouts.tick()
        await self._models.reprove(self._golden_s)
        if not self._models.has_store:
            return
        epoch = await self._sums.epoch() if self._sums is not None else None
        is_noticed = epoch is not None and epoch != self._beat.epoch
        if is_noticed or time.monotonic() - self._beat.followed_at >= self._reconcile_s:
            self._beat.followed_at = time.monotonic()
            await self.follow()
            self._beat.epoch = epoch

    def _note(self, *, is_up: bool, reason: str = "") -> None:
        """Log a change of state once."""
        if is_up != self._beat.is_up:
            self._beat.is_up = is_up
            log.warning("following the records", state="up" if is_up else "down", reason=reason)


async def _stop(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel until each task has ended.

    Once is not enough: `asyncio.wait_for` of Python 3.11 loses a cancellation that comes together
    with its result (cpython#86296), and the drivers use it.
    """
    for task in tasks:
        while not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=0.2)
