"""The life of a model version: states, legal moves, what is known about it, and who must go.

LOADING -> WARMING -> READY -> DRAINING -> UNLOADED, or FAILED with a reason. A ready version may
serve or stand by (as the candidate of a rollout, or on an operator's wish).
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class VersionState(StrEnum):
    """Where a version is in its life; the wire shows these words."""

    LOADING = "loading"
    WARMING = "warming"
    READY = "ready"
    DRAINING = "draining"
    UNLOADED = "unloaded"
    FAILED = "failed"


_MOVES: dict[VersionState, frozenset[VersionState]] = {
    VersionState.UNLOADED: frozenset({VersionState.LOADING}),
    VersionState.LOADING: frozenset({VersionState.WARMING, VersionState.FAILED}),
    VersionState.WARMING: frozenset({VersionState.READY, VersionState.FAILED}),
    VersionState.READY: frozenset({VersionState.DRAINING, VersionState.FAILED}),
    VersionState.DRAINING: frozenset({VersionState.UNLOADED, VersionState.LOADING}),
    VersionState.FAILED: frozenset({VersionState.LOADING}),
}


class IllegalMoveError(RuntimeError):
    """A version was asked to make a move that its state does not allow; a defect of ours."""


@dataclass(slots=True)
class VersionStatus:
    """What is known about one version of one model.

    Attributes:
        reason: why it failed or is not loaded; empty otherwise.
        loaded_at: RFC 3339 time of the last successful load, empty before.
        load_s: seconds that load took.
        digest: sha256 of the manifest's files in order, first 16 hex digits.
        source: where its files came from: directory, mlflow or checkpoint.
        bytes_done / bytes_total: files verified so far, and in all.
        proven_at: monotonic time at which its golden cases last held.
    """

    version: int
    release: str = ""
    state: VersionState = VersionState.UNLOADED
    reason: str = ""
    engine: str = ""
    loaded_at: str = ""
    load_s: float = 0.0
    memory_bytes: int = 0
    digest: str = ""
    source: str = "directory"
    bytes_done: int = 0
    bytes_total: int = 0
    loading_since: float = 0.0
    proven_at: float = 0.0

    def move(self, to: VersionState, reason: str = "") -> None:
        """Change the state.

        Raises:
            IllegalMoveError: the move is not in the table.
        """
        if to not in _MOVES[self.state]:
            raise IllegalMoveError(f"{self.state} -> {to}")
        self.state, self.reason = to, reason
        if to is VersionState.LOADING:
            self.loading_since, self.bytes_done = time.monotonic(), 0

    @property
    def is_moving(self) -> bool:
        """Whether a load or an unload is under way."""
        return self.state in {VersionState.LOADING, VersionState.WARMING, VersionState.DRAINING}


@dataclass(frozen=True, slots=True)
class Resident:
    """A loaded version, as eviction sees it.

    Attributes:
        memory_bytes: what unloading it frees.
        used_at: monotonic time of its last use.
        is_serving: calls without a version go to it; unloaded only when nothing else is left.
        is_held: pinned, or part of a rollout or an ensemble; never evicted.
    """

    name: str
    version: int
    memory_bytes: int
    used_at: float
    is_serving: bool
    is_held: bool


def victims(residents: Iterable[Resident], needed_bytes: int, budget_bytes: int) -> list[Resident]:
    """Choose what must go so that `needed_bytes` fit into the budget.

    Versions that stand by go first, then whole models, each least recently used first.

    Raises:
        MemoryError: not even all of them would free enough.
    """
    everyone = list(residents)
    free = budget_bytes - sum(item.memory_bytes for item in everyone) - needed_bytes
    chosen = []
    candidates = [item for item in everyone if not item.is_held]
    for item in sorted(candidates, key=lambda item: (item.is_serving, item.used_at)):
        if free >= 0:
            break
        chosen.append(item)
        free += item.memory_bytes
    if free < 0:
        raise MemoryError("the memory budget is too small")
    return chosen
