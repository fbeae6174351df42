"""What operators asked for: records of models and rollouts, and the port of their store."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from libs.common.rollouts import Plan

STABLE = "stable"
# As a wanted version: no version of this model is to serve.
NONE_SERVES = 0
RUNNING, PAUSED, COMPLETED, ROLLED_BACK = "running", "paused", "completed", "rolled_back"


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """The wishes about one model.

    Attributes:
        generation: grows with each change; 0 while nothing was ever asked for.
        stable: version that answers; None means the newest that passes its checks.
        previous: the stable version before, for a rollback.
        aliases: further names of versions, such as champion and challenger.
        standby: versions to keep loaded beside the stable one.
        withdrawn: nothing of this model serves until it is loaded or promoted again.
    """

    name: str
    generation: int = 0
    stable: int | None = None
    previous: int | None = None
    aliases: dict[str, int] = field(default_factory=dict)
    standby: tuple[int, ...] = ()
    withdrawn: bool = False


def wanted_of(records: Iterable[ModelRecord]) -> dict[str, int]:
    """Give the version that is to serve, by model; without the models that have no wish."""
    return {
        item.name: NONE_SERVES if item.withdrawn else item.stable or NONE_SERVES
        for item in records
        if item.withdrawn or item.stable
    }


@dataclass(frozen=True, slots=True)
class RolloutRecord:
    """One rollout as all replicas know it.

    Attributes:
        stage: present step, from 0.
        stage_since: when the step began or was resumed.
        generation: compare-and-set token.
        counts: observations saved from Redis, in wire form.
        signal / reason / evidence: what it ended on, ln E by signal.
    """

    id: str
    model: str
    stable: int
    candidate: int
    plan: Plan
    state: str
    stage: int
    stage_since: datetime
    generation: int
    created_by: str
    created_at: datetime
    counts: dict[str, int] = field(default_factory=dict)
    signal: str = ""
    reason: str = ""
    evidence: dict[str, float] = field(default_factory=dict)
    ended_at: datetime | None = None

    @property
    def is_live(self) -> bool:
        """Whether it still routes traffic."""
        return self.state in {RUNNING, PAUSED}


@dataclass(frozen=True, slots=True)
class Remembered:
    """An answer that a label may speak about.

    Attributes:
        arm: who answered, or in shadow would have.
        key: hash of the data subject, for counting it once.
        says: what the label is compared with.
        stable_says: where both versions decided on the same request, what stable said.
    """

    arm: str
    key: int
    says: str
    stable_says: str | None = None


class ControlStore(Protocol):
    """Where the records lie, shared by all replicas.

    Failure policy: raises UnavailableError when the store is down; readers then keep what they
    know, writers answer 503. A writer whose generation is not the present one gets ConflictError.
    """

    async def models(self) -> list[ModelRecord]:
        """Give all model records."""
        ...

    async def model(self, name: str) -> ModelRecord:
        """Give one record, of generation 0 when there is none."""
        ...

    async def put_model(self, record: ModelRecord, expected: int) -> ModelRecord:
        """Replace a record if its generation is still `expected`; gives the new one."""
        ...

    async def rollouts(self, *, live_only: bool, model: str | None = None) -> list[RolloutRecord]:
        """Give rollouts, newest first; at most 100."""
        ...

    async def add_rollout(self, record: RolloutRecord) -> RolloutRecord:
        """Add a rollout; ConflictError while the model has a live one."""
        ...

    async def put_rollout(
        self, record: RolloutRecord, expected: int, model: ModelRecord | None = None
    ) -> RolloutRecord:
        """Replace a rollout if unchanged, and with it, in one transaction, a model record."""
        ...

    async def save_counts(self, rollout_id: str, counts: dict[str, int]) -> None:
        """Keep the sums, so that a lost Redis loses at most the last seconds."""
        ...


class RolloutSums(Protocol):
    """Counts of all replicas added up, and the notice that records changed.

    Failure policy: every method gives None or does nothing when the store is down; each replica
    then judges what it saw itself.
    """

    async def add(self, rollout_id: str, increments: dict[str, int]) -> dict[str, int] | None:
        """Add increments and give the total, None when the store is down."""
        ...

    async def restore(self, rollout_id: str, counts: dict[str, int]) -> None:
        """Put saved counts back where the store has none."""
        ...

    async def notify(self) -> None:
        """Tell all replicas that records changed."""
        ...

    async def epoch(self) -> int | None:
        """Give a number that changes with each notice."""
        ...

    async def remember(self, rollout_id: str, answers: Mapping[str, Remembered]) -> None:
        """Keep answers, by hash of their id, until a label comes or their rollout is over."""
        ...

    async def labels(self, since: str) -> tuple[list[tuple[str, str]], str]:
        """Give labels (hash of what they name, label) that came after a place, and the new place.

        `since` is a place given before, or milliseconds of Unix time.
        """
        ...

    async def recall(
        self, rollout_id: str, labels: Sequence[tuple[str, str]]
    ) -> list[tuple[Remembered, str]]:
        """Take out the answers that labels name; one replica gets each, with its label."""
        ...
