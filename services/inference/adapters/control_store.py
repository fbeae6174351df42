"""Records of models and rollouts in PostgreSQL; every write compares the generation it read."""

from dataclasses import replace
from typing import Any

import asyncpg
import orjson

from libs.common.errors import ConflictError
from libs.common.postgres import Postgres
from libs.common.rollouts import Plan
from services.inference.domain.control import ModelRecord, RolloutRecord

_LIST_MAX = 100
_ADD_MODEL = """
    INSERT INTO models (name, generation, stable, previous, aliases, standby, withdrawn)
    VALUES ($1, $2 + 1, $3, $4, $5::jsonb, $6, $7) ON CONFLICT DO NOTHING RETURNING generation
"""
_PUT_MODEL = """
    UPDATE models SET generation = generation + 1, stable = $3, previous = $4,
        aliases = $5::jsonb, standby = $6, withdrawn = $7, updated_at = now()
    WHERE name = $1 AND generation = $2 RETURNING generation
"""
_PUT_ROLLOUT = """
    UPDATE rollouts SET state = $3, stage = $4, stage_since = $5, signal = $6, reason = $7,
        evidence = $8::jsonb, generation = generation + 1,
        ended_at = CASE WHEN $3 IN ('completed', 'rolled_back') THEN now() END
    WHERE id = $1 AND generation = $2 AND state IN ('running', 'paused')
    RETURNING *
"""


class PostgresControlStore:
    """`ControlStore` over the schema `inference`."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def models(self) -> list[ModelRecord]:
        """Give all model records."""
        return [_model(row) for row in await self._postgres.fetch("SELECT * FROM models")]

    async def model(self, name: str) -> ModelRecord:
        """Give one record, of generation 0 when there is none."""
        row = await self._postgres.fetchrow("SELECT * FROM models WHERE name = $1", name)
        return _model(row) if row else ModelRecord(name)

    async def put_model(self, record: ModelRecord, expected: int) -> ModelRecord:
        """Replace a record if its generation is still `expected`; gives the new one."""
        async with self._postgres.connection() as connection:
            return await _put_model(connection, record, expected)

    async def rollouts(self, *, live_only: bool, model: str | None = None) -> list[RolloutRecord]:
        """Give rollouts, newest first; at most 100."""
        rows = await self._postgres.fetch(
            "SELECT * FROM rollouts WHERE ($1 = false OR state IN ('running', 'paused')) "
            "AND ($2::text IS NULL OR model = $2) ORDER BY created_at DESC LIMIT $3",
            live_only,
            model,
            _LIST_MAX,
        )
        return [_rollout(row) for row in rows]

    async def add_rollout(self, record: RolloutRecord) -> RolloutRecord:
        """Add a rollout; ConflictError while the model has a live one."""
        try:
            row = await self._postgres.fetchrow(
                "INSERT INTO rollouts (id, model, stable, candidate, plan, state, created_by) "
                "VALUES ($1, $2, $3, $4, $5::jsonb, $6, $7) RETURNING *",
                record.id,
                record.model,
                record.stable,
                record.candidate,
                orjson.dumps(record.plan.to_json()).decode(),
                record.state,
                record.created_by,
            )
        except asyncpg.UniqueViolationError:
            raise ConflictError(
                "The model has a rollout already.", hint="End it before starting another."
            ) from None
        return _rollout(row)

    async def put_rollout(
        self, record: RolloutRecord, expected: int, model: ModelRecord | None = None
    ) -> RolloutRecord:
        """Replace a rollout if unchanged, and with it, in one transaction, a model record."""
        async with self._postgres.transaction() as connection:
            row = await connection.fetchrow(
                _PUT_ROLLOUT,
                record.id,
                expected,
                record.state,
                record.stage,
                record.stage_since,
                record.signal,
                record.reason,
                orjson.dumps(record.evidence).decode(),
            )
            if row is None:
                raise ConflictError("The rollout has changed meanwhile.", hint="Read it again.")
            if model is not None:
                await _put_model(connection, model, model.generation)
        return _rollout(row)

    async def save_counts(self, rollout_id: str, counts: dict[str, int]) -> None:
        """Keep the sums, so that a lost Redis loses at most the last seconds."""
        await self._postgres.execute(
            "UPDATE rollouts SET counts = $2::jsonb WHERE id = $1",
            rollout_id,
            orjson.dumps(counts).decode(),
        )


async def _put_model(connection: Any, record: ModelRecord, expected: int) -> ModelRecord:
    generation = await connection.fetchval(
        _PUT_MODEL if expected else _ADD_MODEL,
        record.name,
        expected,
        record.stable,
        record.previous,
        orjson.dumps(record.aliases).decode(),
        list(record.standby),
        record.withdrawn,
    )
    if generation is None:
        raise ConflictError(
            f"The model {record.name} has changed meanwhile.",
            hint="Read it again; its generation tells versions of the record apart.",
        )
    return replace(record, generation=generation)


def _model(row: Any) -> ModelRecord:
    return ModelRecord(
        name=row["name"],
        generation=row["generation"],
        stable=row["stable"],
        previous=row["previous"],
        aliases=orjson.loads(row["aliases"]),
        standby=tuple(row["standby"]),
        withdrawn=row["withdrawn"],
    )


def _rollout(row: Any) -> RolloutRecord:
    return RolloutRecord(
        id=row["id"],
        model=row["model"],
        stable=row["stable"],
        candidate=row["candidate"],
        plan=Plan.from_json(orjson.loads(row["plan"])),
        state=row["state"],
        stage=row["stage"],
        stage_since=row["stage_since"],
        generation=row["generation"],
        created_by=row["created_by"],
        created_at=row["created_at"],
        counts=orjson.loads(row["counts"]),
        signal=row["signal"],
        reason=row["reason"],
        evidence=orjson.loads(row["evidence"]),
        ended_at=row["ended_at"],
    )
