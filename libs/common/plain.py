"""Routes without FastAPI's per-request machinery, yet present in the OpenAPI document.

FastAPI matches every route in turn, resolves dependencies, validates and re-serialises; on a short
answer that costs more than the answer. A plain endpoint gets the request and gives the response.
The service's edge calls those of fixed paths itself (`plain_endpoints`); the others, and whatever
else the framework routes, come through FastAPI with the same result.
"""

from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

import orjson
from fastapi import APIRouter
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from libs.common.problems import from_pydantic

ModelT = TypeVar("ModelT", bound=BaseModel)
Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]


class PlainRoute(APIRoute):
    """An API route whose endpoint is called with the request and nothing else."""

    def get_route_handler(self) -> Endpoint:
        """Give the endpoint itself."""
        return self.endpoint


def plain_endpoints(
    routers: Iterable[APIRouter], prefix: str = ""
) -> dict[tuple[str, str], Endpoint]:
    """Collect the plain endpoints of fixed paths, by method and path."""
    return {
        (method, prefix + route.path): route.endpoint
        for router in routers
        for route in router.routes
        if isinstance(route, PlainRoute) and "{" not in route.path
        for method in route.methods or ()
    }


async def body_bytes(request: Request) -> bytes:
    """Read the whole body; most come in one message.

    Raises:
        PayloadTooLargeError: it passes the route's cap.
        ClientDisconnect: the caller left before its end.
    """
    parts: list[bytes] = []
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def parse(request: Request, model: type[ModelT]) -> ModelT:
    """Read and check the body in one pass.

    Raises:
        BadRequestError: the body is not JSON.
        InvalidInputError: a field is wrong; named by JSON pointer, its value never repeated.
    """
    try:
        return model.model_validate_json(await body_bytes(request))
    except ValidationError as error:
        raise from_pydantic(
            error.errors(include_url=False, include_context=False, include_input=False)
        ) from None


def respond(document: object, headers: dict[str, str] | None = None) -> Response:
    """Give a JSON response."""
    return Response(orjson.dumps(document), media_type="application/json", headers=headers)


def body_of(model: type[BaseModel]) -> dict[str, Any]:
    """Describe a request body for the OpenAPI document."""
    schema = model.model_json_schema()
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
