"""Versions that were taken out of service and may still be held by calls.

Whoever holds one finishes on it; it is closed when nobody does, or when its time is over.
"""

import sys
import threading
import time
from collections.abc import Callable

from services.inference.adapters.process import give_back
from services.inference.domain.lifecycle import VersionState, VersionStatus
from services.inference.domain.model import LoadedModel
from services.inference.domain.text import TextModel

# A replaced version is closed after this long even if a call still holds it.
DRAIN_S_MAX = 30.0
# A text model finishes by itself what it admitted, after a time for calls that hold it to reach its
# queue; it is closed and memory trimmed a little later, when its session has gone.
_TEXT_GRACE_S = 2.5
# References to a draining model that are not a call: the list, the loop, the argument.
_OWN_REFERENCES = 3


class Draining:
    """The list of them; `hooks` are told, in the loader's thread, when one begins to drain."""

    def __init__(self) -> None:
        self.hooks: list[Callable[[LoadedModel], None]] = []
        self._lock = threading.Lock()
        self._waiting: list[tuple[LoadedModel, VersionStatus, str, float]] = []

    def add(self, model: LoadedModel, status: VersionStatus, reason: str) -> None:
        """Let a version drain; `reason` is what its status says once it is unloaded."""
        self.announce(model)
        status.move(VersionState.DRAINING)
        wait_s = _TEXT_GRACE_S if isinstance(model, TextModel) else DRAIN_S_MAX
        with self._lock:
            self._waiting.append((model, status, reason, time.monotonic() + wait_s))

    def announce(self, model: LoadedModel) -> None:
        """Tell the hooks."""
        for hook in self.hooks:
            hook(model)

    def sweep(self) -> None:
        """Close what has drained."""
        with self._lock:
            kept = []
            for entry in self._waiting:
                model, status, reason, until = entry
                del entry
                if sys.getrefcount(model) > _OWN_REFERENCES and time.monotonic() < until:
                    kept.append((model, status, reason, until))
                    continue
                model.close()
                if status.state is VersionState.DRAINING:
                    status.move(VersionState.UNLOADED, reason)
            was_freed, self._waiting = len(kept) < len(self._waiting), kept
        if was_freed:
            give_back()
