"""The compliance report: what it counts, what it says, and that nothing in it is markup."""

import copy
import json
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import pytest
from typer.testing import CliRunner

from libs.cli.__main__ import app
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
    assert found["integrity"]["previous"] is None
    assert found["to_index"] <= found["integrity"]["checkpoint_size"]
    assert any("no more" in line for line in found["does_not_prove"])

    shown = await report("?format=html")
    assert shown.headers["Content-Type"].startswith("text/html")
    parsed = _Text()
    parsed.feed(shown.body.decode())
    assert "script" not in parsed.tags
    for text in (
        "<script>",
        "What it does not prove",
        "Unwitnessed spans",
        "approve",
        "gaps: none",
    ):
        assert text in parsed.text
    empty = (await report("?from=2020-01-01T00:00:00Z&to=2020-02-01T00:00:00Z")).json()
    assert empty["events"] == 0
    for query in (
        "?from=2026-01-01",
        "?from=2020-01-01T00:00:00Z&to=2019-01-01T00:00:00Z",
        "?from=2000-01-01T00:00:00Z",
        "?format=pdf",
        "?since=2020-01-01T00:00:00Z",
        "?previous_size=1000000",
        "?previous_size=0",
    ):
        assert (await report(query)).status == 422, query
    await emitter.close()
    await gateway.close()


async def test_a_report_proves_offline_that_the_log_extends_the_one_reported_before(
    audit, tmp_path
):
    client = audit.client("inference")

    async def report(query: str = "") -> dict[str, Any]:
        reply = await client.request(
            "GET",
            f"/v1/audit/reports/compliance{query}",
            tenant="default",
            scopes=("audit:read",),
        )
        assert reply.status == 200, reply.body
        return dict(reply.json())

    async def covers(size: int) -> None:
        async def is_signed() -> bool:
            return int((await report())["integrity"]["checkpoint_size"]) >= size

        await until(is_signed)

    def verify(document: dict[str, Any], *kept: str) -> tuple[int, dict[str, Any]]:
        path = tmp_path / "report.json"
        path.write_text(json.dumps(document))
        arguments = ["--key", str(audit.state_dir / "audit" / "log.vkey")]
        for number, note in enumerate(kept):
            (tmp_path / f"{number}.checkpoint").write_text(note)
            arguments += ["--against", str(tmp_path / f"{number}.checkpoint")]
        result = CliRunner().invoke(app, ["audit", "verify", "--json", str(path), *arguments])
        return result.exit_code, json.loads(result.stdout)

    await deliver(client, [prediction(i) for i in range(37)])
    await covers(37)
    first = await report()
    start = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    await deliver(client, [prediction(i) for i in range(37, 300)])
    await covers(300)
    second = await report(f"?from={start}")
    assert (second["from_index"], second["to_index"], second["events"]) == (37, 300, 263)
    assert second["integrity"]["previous"]["size"] == 37
    assert (await report("?previous_size=37"))["integrity"]["previous"]["size"] == 37

    note = first["integrity"]["checkpoint"]
    code, said = verify(second, note)
    assert (code, said["log_size"], said["extends_size"]) == (0, 300, 37)
    assert verify(first)[0] == 0
    for path, value in (
        (("integrity", "previous", "proof"), second["integrity"]["previous"]["proof"][1:]),
        (("integrity", "previous", "checkpoint"), note.replace("37\n", "36\n", 1)),
        (("integrity", "checkpoint"), second["integrity"]["checkpoint"].replace("300", "301", 1)),
        (("to_index",), 301),
    ):
        altered = copy.deepcopy(second)
        place = altered
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = value
        assert verify(altered, note)[0] == 1, path
    # A report that carries no proof from the kept checkpoint says nothing about it.
    unrelated = copy.deepcopy(second)
    unrelated["integrity"]["previous"] = None
    assert verify(unrelated, note)[0] == 2
    for document in ({}, {"report": "gatehouse-compliance/1"}):
        assert verify(document)[0] == 2
    await client.close()
