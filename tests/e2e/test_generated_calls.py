"""Generated input to every route of the published description, through the gateway."""

import httpx2

from tests.e2e.fuzzing import explore, operations


def test_no_generated_call_breaks_the_suite(gateway: httpx2.Client) -> None:
    document = gateway.get("/openapi.json").json()
    calls, findings = explore(document, gateway, examples=4)
    assert findings == []
    assert calls >= 100


def test_the_routes_that_score_are_among_them(gateway: httpx2.Client) -> None:
    document = gateway.get("/openapi.json").json()
    found = {operation.path for operation in operations(document, "http://x")}
    assert {"/score/fraud", "/score/batch", "/predict", "/v1/guardrails/validate"} <= found
