"""Labels for verdicts: compared, counted, recorded without the text."""

import pytest

pytestmark = pytest.mark.anyio
PATH = "/v1/guardrails/feedback"


async def test_labels_are_compared_with_verdicts_counted_and_recorded(client, recorder):
    text = "mail jane@example.com"
    body = {"text": text, "expected": {"pii": True, "injection": True, "secrets": False}}
    reply = await client.post(PATH, json=body)
    found = {item["name"]: (item["said"], item["correct"]) for item in reply.json()["validators"]}
    assert found == {"pii": (True, True), "injection": (False, False), "secrets": (False, True)}
    metrics = (await client.get("/metrics")).text
    name = "gatehouse_guardrails_labels_total"
    assert f'{name}{{expected="true",said="true",validator="pii"}} 1.0' in metrics
    assert f'{name}{{expected="true",said="false",validator="injection"}} 1.0' in metrics
    (event,) = recorder.events
    assert event.type == "verdict.labelled"
    assert "jane" not in str(event.to_wire())


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"text": "a", "expected": {}}, "/expected"),
        ({"text": "a", "expected": {"toxicity": True}}, "/expected"),
        ({"text": "a", "expected": {"pii": "yes"}}, "/expected/pii"),
    ],
)
async def test_a_label_for_nothing_is_refused(client, recorder, body, pointer):
    reply = await client.post(PATH, json=body)
    assert reply.status_code == 422
    assert reply.json()["errors"][0]["pointer"] == pointer
    assert recorder.events == []


async def test_personal_data_and_toxicity_rates_are_metrics(client):
    for text in ("mail jane@example.com", "nothing here"):
        await client.post("/v1/guardrails/validate", json={"text": text})
    metrics = (await client.get("/metrics")).text
    assert "gatehouse_guardrails_texts_total 2.0" in metrics
    assert 'gatehouse_guardrails_flagged_texts_total{kind="pii"} 1.0' in metrics
    for name in ("gatehouse_guardrails_streams_active", "process_resident_memory_bytes",
                 "process_cpu_seconds_total"):  # fmt: skip
        assert name in metrics
