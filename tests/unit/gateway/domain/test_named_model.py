"""Scopes for one model, the entity tag's comparison, and what is kept under an Idempotency-Key."""

import pytest

from libs.common.catalog import SERVICES
from libs.common.context import Caller
from libs.common.routing import RouteTable
from services.gateway.domain.creating import _CREATING, creates, is_final
from services.gateway.domain.entity_tag import is_match
from services.gateway.domain.named_model import may_call, model_of

TABLE = RouteTable((name, route) for name, entry in SERVICES.items() for route in entry.routes)


@pytest.mark.parametrize(
    ("method", "path", "model"),
    [
        ("POST", "/v1/models/fraud/predict", "fraud"),
        ("POST", "/v2/models/fraud/infer", "fraud"),
        ("POST", "/v2/models/fraud/versions/3/infer", "fraud"),
        ("GET", "/v2/models/fraud", "fraud"),
        ("GET", "/v2/health/ready", None),
        ("POST", "/v2/models/fr%61ud/infer", None),
        ("POST", "/v1/models/fr%61ud/predict", None),
        ("POST", "/score/fraud", None),
    ],
)
def test_the_model_that_a_path_names(method: str, path: str, model: str | None) -> None:
    match = TABLE.match(method, path)
    assert match is not None
    assert model_of(match.route, match.params) == model


@pytest.mark.parametrize(
    ("scopes", "scope", "model", "allowed"),
    [
        ({"predict:model"}, "predict:model", "fraud", True),
        ({"predict:*"}, "predict:model", "fraud", True),
        ({"predict:fraud"}, "predict:model", "fraud", True),
        ({"predict:fraud"}, "predict:model", "sentiment", False),
        ({"predict:fraud"}, "predict:model", None, False),
        ({"predict:fraud"}, "models:admin", "fraud", False),
        ({"models:fraud"}, "predict:model", "fraud", False),
        ({"predict:fraud"}, "predict:batch", "fraud", False),
    ],
)
def test_a_scope_for_one_model_opens_that_model_only(
    scopes: set[str], scope: str, model: str | None, allowed: bool
) -> None:
    assert may_call(Caller("t", "p", frozenset(scopes)), scope, model) is allowed


@pytest.mark.parametrize(
    ("asked", "matches"),
    [
        (b'"a"', True),
        (b'W/"a"', True),
        (b'"x", "a"', True),
        (b"*", True),
        (b'"b"', False),
        (b"a", False),
        (b"", False),
    ],
)
def test_entity_tags_compare_weakly(asked: bytes, matches: bool) -> None:
    assert is_match(asked, b'"a"') is matches


def test_what_creates_is_known_to_the_catalogue() -> None:
    routes = [(name, route) for name, entry in SERVICES.items() for route in entry.routes]
    assert {route.path for _, route in routes} >= _CREATING
    kept = {route.path for name, route in routes if creates(name, route)}
    assert kept >= {"/v1/feedback", "/features/events", "/v1/audit/legal-holds", "/v1/auth/keys"}
    assert not kept & {"/score/fraud", "/predict", "/v1/guardrails/validate"}
    assert not any(creates(name, route) for name, route in routes if route.method != "POST")


def test_what_may_pass_later_is_not_kept() -> None:
    assert [is_final(s) for s in (200, 201, 409, 422, 404)] == [True] * 5
    assert [is_final(s) for s in (408, 425, 429, 500, 503)] == [False] * 5
