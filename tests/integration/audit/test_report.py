"""The compliance report: what it counts, what it says, and that nothing in it is markup."""

from html.parser import HTMLParser

import pytest

from libs.common.events.envelope import Event
from tests.integration.audit.process import deliver, prediction, until

pytestmark = pytest.mark.anyio


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)

    def handle_data(self, data):
        self.text += data


def _event(kind: str, source: str, event_class: str, **data: object) -> Event:
    return Event(
        type=kind,
        source=source,
        event_class=event_class,  # type: ignore[arg-type] # given as a literal by each caller
        data=data,
        tenant="default",
        principal="key:demo",
    )


async def test_a_report_counts_what_the_log_holds_and_states_its_limits(audit):
    emitter, gateway = audit.client("inference"), audit.client("gateway")
    await deliver(emitter, [prediction(i) for i in range(7)])
    await deliver(emitter, [prediction(1, "other")])
    change = _event("model.changed", "inference", "required", what="<script>", by="key:demo")
    await deliver(emitter, [change])
    await deliver(gateway, [_event("auth.failed", "gateway", "required", reason="key")])
    body = {"data_subject": "card:1"}
    await gateway.request(
        "POST", "/v1/audit/erasures", json=body, tenant="default", scopes=("audit:erase",)
    )

    async def report(query: str = ""):
        return await gateway.request(
            "GET",
            f"/v1/audit/reports/compliance{query}",
            tenant="default",
            scopes=("audit:read",),
        )

    async def is_erasure_there() -> bool:
        return bool((await report()).json()["erasures"]["count"])

    await until(is_erasure_there)
    found = (await report()).json()
    assert found["events"] == 10
    assert found["by_class"] == {"required": 3, "standard": 7}
    assert found["decisions"] == [{"model": "fraud", "decision": "approve", "events": 7}]
    assert found["overrides"]["newest"][0]["data"]["what"] == "<script>"
    assert found["access"]["count"] == 1
    assert found["gaps"] == {"count": 0, "newest": []}
    assert found["integrity"]["consistent"] is True
    assert found["integrity"]["log_size"] >= 10
    assert any("no more" in line for line in found["does_not_prove"])

    shown = await report("?format=html")
    assert shown.headers["Content-Type"].startswith("text/html")
    parsed = _Text()
    parsed.feed(shown.body.decode())
    assert "script" not in parsed.tags
    for text in ("<script>", "What it does not prove", "Unwitnessed spans", "approve"):
        assert text in parsed.text
    empty = (await report("?from=2020-01-01T00:00:00Z&to=2020-02-01T00:00:00Z")).json()
    assert empty["events"] == 0
    for query in (
        "?from=2026-01-01",
        "?from=2020-01-01T00:00:00Z&to=2019-01-01T00:00:00Z",
        "?from=2000-01-01T00:00:00Z",
        "?format=pdf",
        "?since=2020-01-01T00:00:00Z",
    ):
        assert (await report(query)).status == 422, query
    await emitter.close()
    await gateway.close()
