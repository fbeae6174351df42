"""Security alerts reach the log and the metrics of a running service."""

import pytest

from libs.common.events.envelope import Event
from tests.integration.audit.process import deliver, until

pytestmark = pytest.mark.anyio


def _refusal(reason: str = "key") -> Event:
    return Event(
        type="auth.failed",
        source="gateway",
        event_class="required",
        data={"reason": reason, "key_id": "", "network": "203.0.113.0/24"},
        tenant="default",
        principal="",
    )


async def test_a_burst_of_refusals_becomes_one_alert_in_the_log_and_a_metric(audit):
    client = audit.client("gateway")

    async def get(path: str):
        return await client.request("GET", path, tenant="default", scopes=("audit:read",))

    async def alerts() -> list[dict[str, object]]:
        found = (await get("/v1/audit/events?type=security.alert")).json()["items"]
        return list(found)

    async def is_watching() -> bool:
        """The rules start at the size that they find; feed until the first alert comes."""
        await deliver(client, [_refusal() for _ in range(25)])
        return bool(await alerts())

    await until(is_watching)
    found = await alerts()
    assert len(found) == 1
    assert found[0]["data"]["rule"] == "auth_burst"  # type: ignore[index] # JSON
    metrics = (await get("/metrics")).body.decode()
    assert 'gatehouse_audit_security_alerts_total{rule="auth_burst"} 1' in metrics
    await client.close()
