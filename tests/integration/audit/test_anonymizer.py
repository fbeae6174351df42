"""Words of an operator, masked by the running guardrails service before they are hashed."""

import pytest

from libs.common.events.envelope import Event
from tests.integration.audit.process import AuditProcess, GuardrailsProcess, deliver

pytestmark = pytest.mark.anyio


def revoked(reason: str) -> Event:
    return Event(
        type="key.revoked",
        source="gateway",
        event_class="required",
        data={"key_id": "k1", "by": "key:demo", "reason": reason},
        tenant="default",
        principal="key:demo",
    )


async def test_whoever_is_named_is_masked_and_without_an_answer_the_text_is_withheld(
    own_state, clean_postgres, redis_url
):
    guardrails = GuardrailsProcess(own_state, clean_postgres, redis_url)
    guardrails.start()
    audit = AuditProcess(
        own_state, clean_postgres, GUARDRAILS_URL=guardrails.url, AUDIT_ANONYMIZE="true"
    )
    try:
        audit.start()
        client = audit.client("gateway")

        async def stored(reason: str) -> str:
            event = revoked(reason)
            reply = await deliver(client, [event])
            assert reply.json()["results"][0]["status"] == "appended"
            shown = await client.request(
                "GET",
                f"/v1/audit/events/{event.id}",
                tenant="default",
                scopes=("audit:read",),
            )
            return str(shown.json()["data"]["reason"])

        said = await stored("asked by ada.byron@example.com on 2026-11-20")
        assert said == "asked by <EMAIL_ADDRESS> on 2026-11-20"
        assert await stored("rotated") == "rotated"
        guardrails.kill()
        assert await stored("asked by ada.byron@example.com") == "withheld"
        await client.close()
    finally:
        audit.kill()
        guardrails.kill()
