"""One OpenAPI document out of the services' own: only catalogue routes, names made unique."""

from collections.abc import Iterable, Mapping
from typing import Any

from libs.common.catalog.model import Route
from libs.common.context import Caller
from services.gateway.domain.examples import FORMS, REQUESTS, UNDESCRIBED, example_of
from services.gateway.domain.named_model import ANY_MODEL

_REF_PREFIX = "#/components/schemas/"
_PROBLEM = {
    "description": "Problem (RFC 9457)",
    "content": {"application/problem+json": {"schema": {"$ref": f"{_REF_PREFIX}Problem"}}},
}
_PROBLEM_SCHEMA = {
    "type": "object",
    "required": ["type", "title", "status", "code"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "code": {"type": "string"},
        "hint": {"type": "string"},
        "request_id": {"type": "string"},
        "trace_id": {"type": "string"},
    },
}


def merge(
    documents: Mapping[str, Mapping[str, Any]],
    routes: Iterable[tuple[str, Route]],
    *,
    version: str,
) -> dict[str, Any]:
    """Merge the documents.

    Args:
        documents: OpenAPI document per service; a service that is missing is described by its
            catalogue rows alone.
        routes: (service, route) of every public route.
        version: of the whole suite.
    """
    paths: dict[str, dict[str, Any]] = {}
    schemas: dict[str, Any] = {"Problem": _PROBLEM_SCHEMA}
    for service, document in documents.items():
        own = document.get("components", {}).get("schemas", {})
        for name, schema in own.items():
            schemas[_unique(service, name)] = _rewritten(schema, service)
    for service, route in routes:
        if route.method == "WS":
            continue
        template = route.path.replace(":path}", "}")
        described = documents.get(service, {}).get("paths", {})
        found = described.get(route.path, described.get(template, {})).get(route.method.lower(), {})
        operation = _operation(found, service, route, template)
        _exemplify(operation, (route.method.lower(), template), schemas)
        paths.setdefault(template, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Gatehouse",
            "version": version,
            "description": "Machine-learning models behind one door.",
        },
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {
                "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


def _operation(
    found: Mapping[str, Any], service: str, route: Route, template: str
) -> dict[str, Any]:
    """Give a service's operation as the edge offers it."""
    operation = {**_rewritten(found, service), **_edge_of(service, route, template)}
    operation.setdefault("summary", route.summary)
    operation["responses"] = {
        **operation.get("responses", {"200": {"description": "Success"}}),
        "default": _PROBLEM,
    }
    if "parameters" not in operation and "{" in template:
        operation["parameters"] = _path_parameters(template)
    return operation


def only_for(document: Mapping[str, Any], caller: Caller) -> dict[str, Any]:
    """Give the document without the operations that a caller may not call.

    A caller who holds scopes for single models keeps the routes that name a model.
    """
    holds_a_model = any(scope.startswith("predict:") for scope in caller.scopes)

    paths = {}
    for path, operations in document["paths"].items():
        kept = {
            method: operation
            for method, operation in operations.items()
            if "x-scope" not in operation
            or caller.may(operation["x-scope"])
            or (holds_a_model and operation["x-scope"] == ANY_MODEL and "{" in path)
        }
        if kept:
            paths[path] = kept
    return {**document, "paths": paths}


def _edge_of(service: str, route: Route, template: str) -> dict[str, Any]:
    """Give what the gateway knows better than the service: tag, id, security, status."""
    name = "".join(c if c.isalnum() else "_" for c in template).strip("_")
    edge: dict[str, Any] = {
        "tags": [service],
        "operationId": f"{service}_{route.method.lower()}_{name or 'root'}",
        "security": [{"api_key": []}, {"bearer": []}] if route.scope else [],
    }
    if route.scope:
        edge["x-scope"] = route.scope
    if route.status == "planned":
        edge["x-status"] = "planned"
        edge["summary"] = f"{route.summary} (planned: answers 501)"
    return edge


def _exemplify(
    operation: dict[str, Any], called: tuple[str, str], schemas: Mapping[str, Any]
) -> None:
    """Give the request body of an operation an example."""
    form, bare = FORMS.get(called), UNDESCRIBED.get(called)
    if form is not None and "requestBody" not in operation:
        fields = {name: {"type": "string"} for name in form}
        schema = {"type": "object", "properties": fields}
        content = {"application/x-www-form-urlencoded": {"schema": schema, "example": form}}
        operation["requestBody"] = {"content": content}
    elif bare is not None and "requestBody" not in operation:
        content = {"application/json": {"schema": {"type": "object"}, "example": bare}}
        operation["requestBody"] = {"required": True, "content": content}
    described = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if described is None or "example" in described or "examples" in described:
        return
    written = REQUESTS.get(called)
    schema = described.get("schema", {})
    described["example"] = example_of(schema, schemas) if written is None else written


def _path_parameters(template: str) -> list[dict[str, Any]]:
    names = [part[1:-1] for part in template.split("/") if part.startswith("{")]
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in names
    ]


def _unique(service: str, name: str) -> str:
    return f"{service}_{name}"


def _rewritten(node: Any, service: str) -> Any:
    """Copy a node with its schema references renamed."""
    if isinstance(node, dict):
        return {
            key: (
                _REF_PREFIX + _unique(service, value.removeprefix(_REF_PREFIX))
                if key == "$ref" and isinstance(value, str) and value.startswith(_REF_PREFIX)
                else _rewritten(value, service)
            )
            for key, value in node.items()
        }
    if isinstance(node, list):
        return [_rewritten(value, service) for value in node]
    return node
