"""Every request body of the merged description carries an example that its schema accepts."""

from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from libs.common.catalog import SERVICES
from libs.common.context import Caller
from libs.common.identity import ensure_keys
from services.analytics.app import create_app as analytics
from services.analytics.settings import AnalyticsSettings
from services.audit.app import create_app as audit
from services.audit.settings import AuditSettings
from services.features.app import create_app as features
from services.features.settings import FeaturesSettings
from services.gateway.app import create_app as gateway
from services.gateway.domain.api_description import merge, only_for
from services.gateway.domain.examples import FORMS, REQUESTS, UNDESCRIBED, example_of
from services.gateway.settings import GatewaySettings
from services.guardrails.app import create_app as guardrails
from services.guardrails.settings import GuardrailsSettings
from services.inference.app import create_app as inference
from services.inference.settings import InferenceSettings

Operation = tuple[str, str, dict[str, Any]]


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    state: Path = tmp_path_factory.mktemp("state")
    ensure_keys(state / "keys", [*SERVICES, "witness"])
    common: dict[str, Any] = {
        "state_dir": state,
        "postgres_url": "postgresql://u@127.0.0.1:1/x",
        "redis_url": "redis://127.0.0.1:1",
    }
    described = {
        "analytics": analytics(AnalyticsSettings.load(**common)),
        "audit": audit(AuditSettings.load(**common)),
        "features": features(FeaturesSettings.load(**common)),
        "gateway": gateway(GatewaySettings.load(**common)),
        "guardrails": guardrails(GuardrailsSettings.load(**common)),
        "inference": inference(InferenceSettings.load(**common)),
    }
    documents = {name: app.openapi() for name, app in described.items()}
    routes = [(name, route) for name, entry in SERVICES.items() for route in entry.routes]
    return merge(documents, routes, version="1")


def bodies(document: dict[str, Any]) -> list[Operation]:
    return [
        (method, path, media)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        for media in operation.get("requestBody", {}).get("content", {}).values()
    ]


def test_each_body_has_an_example_that_its_schema_accepts(document: dict[str, Any]) -> None:
    found = bodies(document)
    assert len(found) >= 45
    for method, path, media in found:
        given = media.get("example", next(iter(media.get("examples", {}).values()), None))
        assert given is not None, (method, path)
        schema = {**media["schema"], "components": document["components"]}
        problems = list(Draft202012Validator(schema).iter_errors(given))
        assert not problems, (method, path, problems[0].message)


def test_no_example_was_written_for_a_route_that_is_gone(document: dict[str, Any]) -> None:
    served = {(method, path) for path, held in document["paths"].items() for method in held}
    assert {*REQUESTS, *FORMS, *UNDESCRIBED} <= served


def test_a_view_holds_what_its_scopes_may_call(document: dict[str, Any]) -> None:
    pinned = only_for(document, Caller("", "", frozenset({"predict:churn"})))["paths"]
    assert {"/v1/models/{name}/predict", "/livez"} <= set(pinned)
    assert not {"/score/fraud", "/v1/auth/keys", "/predict"} & set(pinned)
    everything = only_for(document, Caller("", "", frozenset({"*"})))
    assert everything["paths"] == document["paths"]


def test_a_schema_that_contains_itself_ends() -> None:
    node: dict[str, Any] = {
        "type": "object",
        "required": ["next"],
        "properties": {"next": {"$ref": "#/components/schemas/node"}},
    }
    made = example_of(node, {"node": node})
    depth = 0
    while made:
        made, depth = made["next"], depth + 1
    assert 2 <= depth <= 8
