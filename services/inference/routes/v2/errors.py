"""Errors of the V2 protocol: the body is always `{"error": text}`, whatever raised it."""

from collections.abc import Mapping
from typing import Any, ClassVar

import orjson
from starlette.responses import Response

from libs.common.errors import BadRequestError, NotBuiltError, NotFoundError, ServiceError
from libs.common.problems import problem_response


class V2BadRequestError(BadRequestError):
    """The request does not fit the protocol or the model."""


class V2UnknownModelError(NotFoundError):
    """As Triton words it; clients look for the phrase."""

    code: ClassVar[str] = "unknown_model"

    def __init__(self, name: str, version: str | None = None) -> None:
        which = f"'{name}'" if version is None else f"'{name}' version {version}"
        super().__init__(f"Request for unknown model: {which} is not found")


class V2NotServedError(NotBuiltError):
    """An extension that this server does not have: shared memory, tracing, log settings."""


def render_error(error: ServiceError, scope: Mapping[str, Any]) -> Response:
    """Render `{"error"}` under /v2 and a problem elsewhere."""
    path = str(scope["path"])
    if path != "/v2" and not path.startswith("/v2/"):
        return problem_response(error, path)
    return Response(
        orjson.dumps({"error": error.detail or error.title}),
        status_code=error.status,
        media_type="application/json",
        headers=error.headers,
    )
