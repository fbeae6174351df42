"""Errors on the wire: RFC 9457 `application/problem+json`, rendered in one place.

Members: `type, title, status, detail, instance, code, request_id, trace_id` and, where it helps,
`hint` and `errors`. Validation errors name the field by JSON pointer and say what is wrong; they
never repeat the value that was sent (pydantic's `input` and `ctx` are dropped).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from starlette.responses import Response

from libs.common.context import current
from libs.common.errors import InvalidInputError, ServiceError

PROBLEM_JSON = "application/problem+json"
TYPE_PREFIX = "urn:gatehouse:problem:"


def problem_body(error: ServiceError, instance: str) -> dict[str, Any]:
    """Build the problem document for one error.

    Args:
        error: what went wrong.
        instance: the request path.
    """
    context = current()
    body: dict[str, Any] = {
        "type": TYPE_PREFIX + error.problem_code,
        "title": error.title,
        "status": error.status,
        "detail": error.detail or error.title,
        "instance": instance,
        "code": error.problem_code,
        "request_id": context.request_id,
        "trace_id": context.trace_id,
    }
    if error.hint:
        body["hint"] = error.hint
    body.update(error.extra)
    return body


def problem_response(error: ServiceError, instance: str) -> Response:
    """Render an error as a Starlette response."""
    return Response(
        orjson.dumps(problem_body(error, instance)),
        status_code=error.status,
        media_type=PROBLEM_JSON,
        headers=error.headers,
    )


def pointer_of(location: Sequence[int | str]) -> str:
    """Turn a pydantic error location into a JSON pointer; `body` is the root of the document."""
    parts = [str(part) for part in location]
    if parts and parts[0] in {"body", "query", "path", "header"}:
        source, parts = parts[0], parts[1:]
        if source != "body":
            return f"{source}:{'/'.join(parts)}"
    return "/" + "/".join(part.replace("~", "~0").replace("/", "~1") for part in parts)


def from_pydantic(errors: Sequence[Mapping[str, Any]]) -> InvalidInputError | ServiceError:
    """Translate pydantic's error list, keeping pointer and message, dropping values."""
    from libs.common.errors import BadRequestError

    for error in errors:
        if error["type"] in {"json_invalid", "json_type"}:
            return BadRequestError("The body is not valid JSON.", hint="Send a JSON object.")
    listed = [
        {"pointer": pointer_of(error["loc"]), "message": str(error["msg"])} for error in errors[:20]
    ]
    detail = "; ".join(f"{item['pointer']}: {item['message']}" for item in listed[:3])
    return InvalidInputError(detail, errors=listed)
