"""Errors in the shape of the route: Feast's on Feast's routes, problem+json elsewhere."""

from typing import Any

from starlette.responses import Response

from libs.common.catalog import SERVICES
from libs.common.errors import ServiceError
from libs.common.feast_errors import feast_error_body
from libs.common.problems import problem_response
from libs.common.routing import RouteTable

_ENTRY = SERVICES["features"]
_TABLE = RouteTable(("features", route) for route in _ENTRY.routes)


def render(error: ServiceError, scope: Any) -> Response:
    """Render an error for the route of the request."""
    match = _TABLE.match(scope.get("method", "GET"), scope["path"])
    if match and match.route.error_shape == "feast":
        return Response(
            feast_error_body(error),
            error.status,
            media_type="application/json",
            headers=error.headers,
        )
    return problem_response(error, scope["path"])
