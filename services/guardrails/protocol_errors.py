"""Errors in the shape of the protocol that the caller speaks."""

from typing import Any

import orjson
from starlette.responses import Response

from libs.common.catalog import SERVICES
from libs.common.errors import ServiceError
from libs.common.problems import problem_response
from libs.common.routing import RouteTable

_BEDROCK_NAMES = {
    400: "ValidationException",
    401: "AccessDeniedException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    413: "ValidationException",
    422: "ValidationException",
    429: "ThrottlingException",
    503: "ServiceUnavailableException",
}
_TABLE = RouteTable(("guardrails", route) for route in SERVICES["guardrails"].routes)


def render(error: ServiceError, scope: Any) -> Response:
    """Render an error as problem+json, or as OpenAI, Presidio or Bedrock would."""
    match = _TABLE.match(scope.get("method", "GET"), scope["path"])
    shape = match.route.error_shape if match else "problem"
    message = error.detail or error.title
    if shape == "presidio":
        return _json({"error": message}, error.status, error)
    if shape == "openai":
        status = 400 if error.status == 422 else error.status
        listed = error.extra.get("errors") or [{}]
        body = {
            "message": message,
            "type": "invalid_request_error" if status < 500 else "server_error",
            "param": listed[0].get("pointer", "").strip("/").replace("/", ".") or None,
            "code": error.problem_code,
        }
        return _json({"error": body}, status, error)
    if shape == "bedrock":
        name = _BEDROCK_NAMES.get(error.status, "InternalServerException")
        status = 400 if name == "ValidationException" else error.status
        response = _json({"message": message}, status, error)
        response.headers["x-amzn-errortype"] = name
        return response
    return problem_response(error, scope["path"])


def _json(body: Any, status: int, error: ServiceError) -> Response:
    return Response(
        orjson.dumps(body), status, media_type="application/json", headers=error.headers
    )
