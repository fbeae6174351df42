"""The life of a model version: states, legal moves, and what is known about each version."""

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
    VersionState.DRAINING: frozenset({VersionState.UNLOADED}),
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

    def move(self, to: VersionState, reason: str = "") -> None:
        """Change the state.

        Raises:
            IllegalMoveError: the move is not in the table.
        """
        if to not in _MOVES[self.state]:
            raise IllegalMoveError(f"{self.state} -> {to}")
        self.state, self.reason = to, reason
