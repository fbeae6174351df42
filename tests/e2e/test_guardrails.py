"""Guardrails in the running suite: an erasure empties the verdict cache, rates are counted."""

import re
from typing import Any

import httpx2

from tests.e2e.suite import Suite, audit_events, eventually

CALM = "The train to Lisbon leaves at nine and the weather will be fine."
RUDE = "You are a stupid idiot, shut your mouth, nobody likes you."


def validate(client: httpx2.Client, text: str, **more: Any) -> dict[str, Any]:
    reply = client.post("/v1/guardrails/validate", json={"text": text, **more})
    assert reply.status_code == 200, reply.text
    document: dict[str, Any] = reply.json()
    return document


def test_an_erasure_makes_every_cached_verdict_of_the_tenant_absent(
    suite: Suite, gateway: httpx2.Client
) -> None:
    text = "Card of Ada, ada@example.org, belongs to card_00004321."
    assert eventually(lambda: validate(gateway, text, cache_ttl=600)["cached"])
    subject = {"data_subject": {"entity": "card", "id": "card_00004321"}}
    made = gateway.post("/v1/admin/erasures", json=subject)
    assert made.status_code == 202

    def steps() -> dict[str, str]:
        shown = gateway.get(made.headers["location"]).json()
        return {step["step"]: step["state"] for step in shown["steps"]}

    assert eventually(lambda: set(steps().values()) == {"done"}, 30.0), steps()
    assert steps().keys() == {"features", "audit", "predictions_cache", "verdicts_cache"}
    again = validate(gateway, text, cache_ttl=600)
    assert again["cached"] is False
    assert "<EMAIL_ADDRESS>" in again["text"]
    assert validate(gateway, text, cache_ttl=600)["cached"] is True
    assert not any("ada@example.org" in str(event) for event in audit_events(gateway))


def rate_counts(suite: Suite) -> tuple[float, float]:
    """Texts with a toxic finding, and texts in all."""
    lines = httpx2.get(f"{suite.url('guardrails')}/metrics").text

    def value(name: str) -> float:
        found = re.search(rf"^{re.escape(name)} (\S+)$", lines, re.MULTILINE)
        return float(found[1]) if found else 0.0

    return (
        value('gatehouse_guardrails_flagged_texts_total{kind="toxicity"}'),
        value("gatehouse_guardrails_texts_total"),
    )


def test_the_toxicity_rate_counts_toxic_texts_cached_or_not(
    suite: Suite, gateway: httpx2.Client
) -> None:
    def is_judged() -> bool:
        return bool(validate(gateway, CALM, policy="strict", cache_ttl=0)["status"] == "success")

    assert eventually(is_judged, 60.0)  # the guard model is loaded by its first texts
    toxic, texts = rate_counts(suite)
    answers = [
        validate(gateway, text, policy="strict", cache_ttl=60) for text in (CALM, RUDE, RUDE)
    ]
    assert [answer["cached"] for answer in answers] == [False, False, True]
    found = [
        {verdict["name"]: verdict["labels"] for verdict in answer["validators"]}["toxicity"]
        for answer in answers
    ]
    assert found[0] == []
    assert "toxic" in found[1]
    assert found[1] == found[2]
    assert rate_counts(suite) == (toxic + 2, texts + 3)


def test_every_category_that_the_model_scores_is_told_to_moderation_clients(
    gateway: httpx2.Client,
) -> None:
    asked = {"input": [CALM, RUDE], "model": "gatehouse-guardrails/strict"}

    def results() -> list[dict[str, Any]]:
        found = gateway.post("/v1/moderations", json=asked).json()["results"]
        is_judged = all(result["x_guardrails"]["status"] == "success" for result in found)
        return found if is_judged else []

    calm, rude = eventually(results, 60.0)
    assert (calm["flagged"], rude["flagged"]) == (False, True)
    for result in (calm, rude):
        checked = {name for name, kinds in result["category_applied_input_types"].items() if kinds}
        assert {"harassment", "hate"} <= checked
        assert all((name in checked) == (score > 0) for name, score in
                   result["category_scores"].items())  # fmt: skip
    # A score below its threshold is told too.
    assert 0 < calm["category_scores"]["harassment"] < rude["category_scores"]["harassment"]
    assert (calm["categories"]["harassment"], rude["categories"]["harassment"]) == (False, True)
