"""The model that a path names, and what a scope for one model opens.

`predict:model` opens every model; `predict:<name>` opens the routes that name this model in their
path, and only for it. A name with anything beyond letters, digits, `.`, `_` and `-` is no name here
and opens nothing: percent-encoding could be read differently by the service.
"""

import re
from collections.abc import Mapping

from libs.common.catalog.model import Route
from libs.common.context import Caller

ANY_MODEL = "predict:model"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")
_V2 = re.compile(r"models/([^/]+)(?:/.*)?")


def model_of(route: Route, params: Mapping[str, str]) -> str | None:
    """Give the model that the path of a matched route names, or None."""
    name = params.get("name") if "/models/{name}" in route.path else None
    if name is None and "rest" in params and route.path.startswith("/v2/"):
        found = _V2.fullmatch(params["rest"])
        name = found[1] if found else None
    return name if name and _NAME.fullmatch(name) else None


# Routes that mean one model without naming it.
_IMPLIED = {
    "/score/fraud": "fraud",
    "/score/personalization": "relevance",
    "/recommend": "relevance",
    "/predict": "sentiment",
    "/predict/batch": "sentiment",
}


def implied_model(route: Route) -> str | None:
    """Give the model that a route means without naming it; it only decides who gets the call."""
    return _IMPLIED.get(route.path)


def may_call(caller: Caller, scope: str, model: str | None) -> bool:
    """Say whether a caller may call a route of that scope for that model."""
    if caller.may(scope):
        return True
    return scope == ANY_MODEL and model is not None and f"predict:{model}" in caller.scopes
