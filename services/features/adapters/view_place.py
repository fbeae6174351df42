"""How far the filling of a computed view from history is: its job's place in the events."""

from typing import Any

import orjson

from libs.common.features.computed import ComputedView


def job_of(view: ComputedView) -> str:
    """Name the job that tells how far a version is."""
    return f"view-{view.key}"


async def place_of(connection: Any, tenant: str, view: ComputedView) -> tuple[int, str] | None:
    """Give (arrival, id) of the last event that was taken, None before the first batch."""
    text = await connection.fetchval(
        "SELECT details::text FROM jobs WHERE tenant = $1 AND job_id = $2", tenant, job_of(view)
    )
    if text is None:
        return None
    details = orjson.loads(text)
    return details["arrival_ms"], details["event_id"]
