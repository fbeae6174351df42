"""Erasure jobs: stored first, then worked off step by step until every step is done.

Any replica may work; a row lock keeps two from doing the same step at once, and a step that is
repeated changes nothing. A step that no service offers yet stays pending and says so. The data
subject is kept only until the job is done; a digest of it finds a repeated request.
"""

import asyncio
import contextlib
import hmac
import uuid
from collections.abc import Mapping
from typing import Any

import orjson

from libs.common.catalog import SERVICES
from libs.common.errors import ServiceError
from libs.common.http_client import ServiceClient
from libs.common.logging import get_logger
from libs.common.postgres import Postgres
from services.gateway.domain.erasure import STEPS, Step, first_states, state_of

log = get_logger()

_COLUMNS = "job_id, state, steps::text, requested_by, created_at, finished_at"
_STEP_TIMEOUT_S = 30.0
_POLL_S = 2.0
_RETRY_S = 30.0
# What a service answers that has no such route, or has announced it only.
_NOT_OFFERED = frozenset({404, 405, 501})


class ErasureJobs:
    """Makes, shows and works off erasures."""

    def __init__(
        self, postgres: Postgres, clients: Mapping[str, ServiceClient], pepper: bytes
    ) -> None:
        self._postgres = postgres
        self._clients = clients
        self._pepper = pepper
        self._wake = asyncio.Event()

    async def make(
        self, tenant: str, subject: Mapping[str, str], by: str
    ) -> tuple[dict[str, Any], bool]:
        """Make a job, or find the open one for the same data subject.

        Returns:
            The job and whether it is new.
        """
        document = orjson.dumps(dict(subject), option=orjson.OPT_SORT_KEYS)
        digest = hmac.digest(self._pepper, b"erasure|" + tenant.encode() + document, "sha256")
        async with self._postgres.transaction() as connection:
            # Serializes two requests for the same data subject.
            await connection.execute(
                "SELECT pg_advisory_xact_lock($1)", int.from_bytes(digest[:8], "big", signed=True)
            )
            row = await connection.fetchrow(
                f"SELECT {_COLUMNS} FROM erasures "
                "WHERE tenant = $1 AND digest = $2 AND state <> 'done'",
                tenant,
                digest,
            )
            is_new = row is None
            if is_new:
                row = await connection.fetchrow(
                    "INSERT INTO erasures (job_id, tenant, requested_by, data_subject, digest, "
                    "steps, state) VALUES ($1, $2, $3, $4::jsonb, $5, $6::jsonb, 'pending') "
                    f"RETURNING {_COLUMNS}",
                    uuid.uuid4(),
                    tenant,
                    by,
                    document.decode(),
                    digest,
                    orjson.dumps(first_states()).decode(),
                )
        self._wake.set()
        return _shown(row), is_new

    async def read(self, tenant: str, job_id: uuid.UUID) -> dict[str, Any] | None:
        """Give a job of the tenant, or None."""
        row = await self._postgres.fetchrow(
            f"SELECT {_COLUMNS} FROM erasures WHERE tenant = $1 AND job_id = $2", tenant, job_id
        )
        return _shown(row) if row else None

    async def list(self, tenant: str, limit: int) -> list[dict[str, Any]]:
        """List the newest jobs of the tenant."""
        rows = await self._postgres.fetch(
            f"SELECT {_COLUMNS} FROM erasures WHERE tenant = $1 ORDER BY created_at DESC LIMIT $2",
            tenant,
            limit,
        )
        return [_shown(row) for row in rows]

    async def run(self) -> None:
        """Work until cancelled: new jobs at once, failed steps again every half minute."""
        retry_at = 0.0
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(ServiceError, OSError):
                while await self._work_one(only_new=loop.time() < retry_at):
                    pass
                if loop.time() >= retry_at:
                    retry_at = loop.time() + _RETRY_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL_S):
                    await self._wake.wait()
            self._wake.clear()

    async def _work_one(self, *, only_new: bool) -> bool:
        """Work on the oldest waiting job; says whether there may be another one."""
        async with self._postgres.transaction() as connection:
            row = await connection.fetchrow(
                "SELECT job_id, tenant, data_subject::text, steps::text FROM erasures "
                "WHERE state = 'pending' OR (NOT $1 AND state = 'running' AND "
                "coalesce(finished_at, created_at) < now() - make_interval(secs => 1)) "
                "ORDER BY coalesce(finished_at, created_at) LIMIT 1 FOR UPDATE SKIP LOCKED",
                only_new,
            )
            if row is None:
                return False
            subject = orjson.loads(row["data_subject"])
            steps = orjson.loads(row["steps"])
            for step, held in zip(STEPS, steps, strict=True):
                if held["state"] != "done":
                    await self._do(step, held, row["tenant"], subject)
            state = state_of(steps)
            await connection.execute(
                "UPDATE erasures SET steps = $2::jsonb, state = $3, finished_at = now(), "
                "data_subject = CASE WHEN $3 = 'done' THEN NULL ELSE data_subject END "
                "WHERE job_id = $1",
                row["job_id"],
                orjson.dumps(steps).decode(),
                state,
            )
        log.info("erasure worked on", state=state)
        return only_new

    async def _do(
        self, step: Step, held: dict[str, Any], tenant: str, subject: Mapping[str, str]
    ) -> None:
        """Take one step and note how it went; never raises for a service's failure."""
        held["attempts"] += 1
        scope = _scope_of(step)
        if scope is None:
            held["detail"] = f"{step.service} does not offer this yet"
            return
        try:
            reply = await self._clients[step.service].request(
                step.method,
                step.path,
                json=step.body(subject),
                timeout_s=_STEP_TIMEOUT_S,
                tenant=tenant,
                scopes=(scope,),
            )
        except ServiceError as error:
            held["detail"] = f"{step.service}: {error.problem_code}; it is tried again"
            return
        if reply.status < 300:
            held["state"] = "done"
            held["detail"] = ""
        elif reply.status in _NOT_OFFERED:
            held["detail"] = f"{step.service} does not offer this yet"
        else:
            held["detail"] = f"{step.service} answered {reply.status}; it is tried again"


def _scope_of(step: Step) -> str | None:
    """Give the scope that the catalogue asks for, or None when it knows no such route."""
    entry = SERVICES[step.service]
    for route in (*entry.routes, *entry.internal):
        if (route.method, route.path) == (step.method, step.path) and route.status == "built":
            return route.scope or ""
    return None


def _shown(row: Any) -> dict[str, Any]:
    steps = orjson.loads(row["steps"])
    is_done = row["state"] == "done"
    return {
        "job_id": str(row["job_id"]),
        "state": row["state"],
        "steps": steps,
        "requested_by": row["requested_by"],
        "created_at": row["created_at"],
        "finished_at": row["finished_at"] if is_done else None,
    }
