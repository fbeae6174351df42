"""Follows an alias in a model registry: when it moves, the version is fetched, proven, promoted.

The registry down: what serves goes on serving, the watch retries with growing pauses and /health
says so. A version that does not pass its checks is told once and left alone until the alias moves.
"""

import asyncio
import random
from typing import Protocol

from libs.common.errors import ConflictError, UnavailableError
from libs.common.health import Component
from libs.common.logging import get_logger
from libs.common.manifest import Manifest, ManifestError
from services.inference.control.models import ModelControl
from services.inference.errors import VersionBrokenError

log = get_logger()

_PAUSE_S_MAX = 300.0


class RegistrySource(Protocol):
    """A registry of model versions. Failure policy: UnavailableError when it does not answer."""

    async def alias_version(self, name: str, alias: str) -> str | None:
        """Give the registry's version that an alias names, None when it points nowhere."""
        ...

    async def fetch(self, name: str, version: str) -> Manifest:
        """Put a version among the staged ones; ManifestError when it is not sound."""
        ...


class RegistryWatch:
    """Watches one alias of some models."""

    def __init__(
        self,
        source: RegistrySource,
        models: ModelControl,
        *,
        names: tuple[str, ...],
        alias: str,
        poll_s: float,
    ) -> None:
        self._source = source
        self._models = models
        self._names = names
        self._alias = alias
        self._poll_s = poll_s
        self._seen: dict[str, str] = {}
        self._failures = 0
        self._reasons: dict[str, str] = {}

    async def run(self) -> None:
        """Poll for ever, with jitter; pauses double while the registry is down."""
        while True:
            try:
                for name in self._names:
                    await self.look(name)
                if self._failures:
                    log.info("dependency changed", dependency="mlflow", state="up")
                self._failures = 0
            except UnavailableError:
                if not self._failures:
                    log.warning("dependency changed", dependency="mlflow", state="down")
                self._failures += 1
            except Exception:  # a defect in one round must not end the watch
                log.exception("a round of the registry watch failed")
            pause = min(_PAUSE_S_MAX, self._poll_s * 2 ** min(self._failures, 10))
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))

    async def look(self, name: str) -> None:
        """Compare the alias with what was seen last, and follow it.

        Raises:
            UnavailableError: the registry or the database does not answer; it is tried again.
        """
        version = await self._source.alias_version(name, self._alias)
        if version is None:
            self._reasons[name] = f"the alias {self._alias} points nowhere"
            return
        if self._seen.get(name) == version:
            return
        try:
            manifest = await self._source.fetch(name, version)
            await self._models.reload(name)
            if self._models.repository.serving_version(name) != manifest.version:
                await self._models.promote(name, manifest.version, None, what="registry")
            self._reasons.pop(name, None)
        except ConflictError as error:
            if not isinstance(error, VersionBrokenError):
                return  # somebody else changed the model; the next round looks again
            self._reasons[name] = f"version {version}: {error.detail}"
        except ManifestError as error:
            self._reasons[name] = f"version {version}: {error}"
            log.error("the registry's version is not sound", model=name, reason=str(error))
        self._seen[name] = version

    async def health(self) -> Component:
        """Say how the watch is doing; readiness does not depend on it."""
        if self._failures:
            return Component("degraded", "the registry does not answer; what serves goes on")
        if self._reasons:
            detail = "; ".join(f"{name}: {why}" for name, why in sorted(self._reasons.items()))
            return Component("degraded", detail)
        return Component("ok", "", {"followed": dict(self._seen)})
