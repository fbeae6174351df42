"""Every filter of the search against a plain scan, page by page, while the log grows."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from libs.common.events.envelope import Event
from tests.integration.audit.process import deliver

pytestmark = pytest.mark.anyio
SIZE = 60


def event(number: int) -> Event:
    """Give events that differ in every searched member, with periods that share no factor."""
    is_label = number % 5 == 4
    return Event(
        type="prediction.shadow" if is_label else "prediction.made",
        source="inference",
        event_class="sampled" if is_label else "standard",
        tenant="other" if number % 11 == 10 else "default",
        principal=f"key:{number % 3}",
        request_id=f"request-{number % 7}",
        data_subject=f"card:{number % 4}",
        data={
            "model": ("fraud", "relevance")[number % 2],
            "decision": ("approve", "review")[number % 13 == 0],
        },
    )


async def test_each_filter_finds_exactly_what_a_scan_finds_over_all_pages(audit):
    client = audit.client("inference")
    events = [event(n) for n in range(SIZE)]
    half = SIZE // 2
    await deliver(client, events[:half])
    moment = (datetime.now(UTC) + timedelta(milliseconds=2)).isoformat().replace("+00:00", "Z")
    while datetime.now(UTC).isoformat().replace("+00:00", "Z") <= moment:
        pass
    await deliver(client, events[half:])

    async def pages(query: str, tenant: str) -> list[str]:
        found, cursor = [], ""
        while True:
            path = f"/v1/audit/events?limit=7{query}{cursor}"
            reply = await client.request("GET", path, tenant=tenant, scopes=("audit:read",))
            assert reply.status == 200, reply.body
            page = reply.json()
            found += [item["id"] for item in page["items"]]
            if page["next"] is None:
                return found
            cursor = f"&cursor={page['next']}"

    filters: dict[str, Callable[[int, Any], bool]] = {
        "": lambda n, e: True,
        "&type=prediction.shadow": lambda n, e: e.type == "prediction.shadow",
        "&principal=key:1": lambda n, e: e.principal == "key:1",
        "&data_subject=card:2": lambda n, e: e.data_subject == "card:2",
        "&decision=review": lambda n, e: e.data["decision"] == "review",
        "&model=relevance": lambda n, e: e.data["model"] == "relevance",
        "&request_id=request-3": lambda n, e: e.request_id == "request-3",
        f"&since={moment}": lambda n, e: n >= half,
        f"&until={moment}": lambda n, e: n < half,
        f"&since={moment}&model=fraud&principal=key:2": lambda n, e: (
            n >= half and e.data["model"] == "fraud" and e.principal == "key:2"
        ),
        "&data_subject=card:0&decision=approve": lambda n, e: (
            e.data_subject == "card:0" and e.data["decision"] == "approve"
        ),
        "&model=nothing": lambda n, e: False,
    }
    for tenant in ("default", "other"):
        for query, holds in filters.items():
            expected = [e.id for n, e in enumerate(events) if e.tenant == tenant and holds(n, e)]
            assert await pages(query, tenant) == expected[::-1], (tenant, query)
    # A list never shows whom an event is about, whatever the caller may see of a single one.
    reply = await client.request(
        "GET", "/v1/audit/events", tenant="default", scopes=("audit:read", "audit:personal")
    )
    assert b"card:" not in reply.body
    await client.close()
