"""Running trials in PostgreSQL: what all processes sum up, and what a restart goes on with."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from libs.common.postgres import Postgres
from libs.common.rollouts import Plan

_COLUMNS = (
    "name, id, plan, candidate, stage, counts, "
    "extract(epoch FROM now() - began_at)::float8 AS elapsed_s"
)


@dataclass(frozen=True)
class StoredTrial:
    """A trial as all processes know it.

    Attributes:
        name: of the validator.
        id: salt of the assignments, so that a text meets the same arm everywhere.
        candidate: version on trial.
        counts: sums over all processes, in wire form.
        elapsed_s: seconds since the step began.
    """

    name: str
    id: str
    plan: Plan
    candidate: str
    stage: int = 0
    counts: Mapping[str, int] | None = None
    elapsed_s: float = 0.0


class PostgresTrials:
    """The table of running trials; a row goes when its trial ends."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def running(self) -> list[StoredTrial]:
        """Give every trial that runs."""
        return [
            _stored(row) for row in await self._postgres.fetch(f"SELECT {_COLUMNS} FROM trials")
        ]

    async def add(self, trial: StoredTrial) -> bool:
        """Store a trial; false when another one of this validator runs."""
        status = await self._postgres.execute(
            "INSERT INTO trials (name, id, plan, candidate) VALUES ($1, $2, $3, $4) "
            "ON CONFLICT (name) DO NOTHING",
            trial.name,
            trial.id,
            orjson.dumps(trial.plan.to_json()).decode(),
            trial.candidate,
        )
        return status == "INSERT 0 1"

    async def exchange(
        self, trial_id: str, increments: Mapping[str, int], stage: int
    ) -> StoredTrial | None:
        """Add what this process counted and give the sums; None when the trial has ended."""
        async with self._postgres.transaction() as connection:
            row = await connection.fetchrow(
                "SELECT counts FROM trials WHERE id = $1 FOR UPDATE", trial_id
            )
            if row is None:
                return None
            sums = Counter(orjson.loads(row["counts"]))
            sums.update(increments)
            return _stored(
                await connection.fetchrow(
                    "UPDATE trials SET counts = $2, stage = greatest(stage, $3), began_at = "
                    "CASE WHEN $3 > stage THEN now() ELSE began_at END "
                    f"WHERE id = $1 RETURNING {_COLUMNS}",
                    trial_id,
                    orjson.dumps(sums).decode(),
                    stage,
                )
            )

    async def remove(self, trial_id: str) -> bool:
        """End a trial; say whether this call did: others then leave its record to us."""
        return (
            await self._postgres.execute("DELETE FROM trials WHERE id = $1", trial_id) == "DELETE 1"
        )


def _stored(row: Any) -> StoredTrial:
    return StoredTrial(
        name=row["name"],
        id=row["id"],
        plan=Plan.from_json(orjson.loads(row["plan"])),
        candidate=row["candidate"],
        stage=row["stage"],
        counts=orjson.loads(row["counts"]),
        elapsed_s=row["elapsed_s"],
    )
