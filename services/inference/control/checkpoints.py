"""Brings declared checkpoints into the repository: once each, with growing pauses while it fails.

A version that is in place is never fetched again. What serves is untouched; a model that has no
serving version gets this one.
"""

import asyncio
import random
from collections.abc import Sequence

from libs.common.errors import ServiceError
from libs.common.health import Component
from libs.common.logging import get_logger
from libs.common.manifest import ManifestError
from services.inference.adapters.checkpoint_source import CheckpointSource
from services.inference.control.models import ModelControl
from services.inference.domain.checkpoint import Checkpoint

log = get_logger()

_PAUSE_S, _PAUSE_S_MAX = 5.0, 300.0


class CheckpointFetch:
    """Fetches what the settings declare."""

    def __init__(
        self,
        source: CheckpointSource,
        models: ModelControl,
        wanted: Sequence[Checkpoint],
        *,
        pause_s: float = _PAUSE_S,
    ) -> None:
        self._source = source
        self._models = models
        self._waiting = list(wanted)
        self._pause_s = pause_s
        self._reasons: dict[str, str] = {}

    async def run(self) -> None:
        """Fetch one after the other until all are in place or refused."""
        failures = 0
        while self._waiting:
            failures = failures + 1 if not await self._round() else 0
            if self._waiting:
                pause = min(_PAUSE_S_MAX, self._pause_s * 2 ** min(failures, 10))
                await asyncio.sleep(pause * random.uniform(0.8, 1.2))

    async def health(self) -> Component:
        """Say what is still missing; readiness does not depend on it."""
        if self._reasons:
            detail = "; ".join(f"{name}: {why}" for name, why in sorted(self._reasons.items()))
            return Component("degraded", detail)
        return Component("ok", "", {"waiting": len(self._waiting)})

    async def _round(self) -> bool:
        """Try all that wait; gives whether any came through."""
        came = False
        for checkpoint in list(self._waiting):
            label = f"{checkpoint.name}/{checkpoint.version}"
            try:
                if not self._source.has(checkpoint):
                    await self._source.fetch(checkpoint)
                    await self._models.reload(checkpoint.name)
                self._waiting.remove(checkpoint)
                self._reasons.pop(label, None)
                came = True
            except ManifestError as error:
                self._waiting.remove(checkpoint)
                self._reasons[label] = str(error)
                log.error("the checkpoint is refused", model=checkpoint.name, reason=str(error))
            except ServiceError as error:
                self._reasons[label] = error.detail or error.title
                log.warning("the checkpoint waits", model=checkpoint.name, reason=error.detail)
        return came
