"""Routes without FastAPI's per-request machinery, yet present in the OpenAPI document.

FastAPI matches every route in turn, resolves dependencies, validates and re-serialises; on a short
answer that costs more than the answer. A plain endpoint gets the request and gives the response.
The service's edge calls them itself (`PlainTable`); catch-all paths, and whatever else the
framework routes, come through FastAPI with the same result.
"""

import re
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

import orjson
from fastapi import APIRouter
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from libs.common.problems import from_pydantic
from libs.common.routing import compile_template

ModelT = TypeVar("ModelT", bound=BaseModel)
Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]


class PlainRoute(APIRoute):
    """An API route whose endpoint is called with the request and nothing else."""

    def get_route_handler(self) -> Endpoint:
        """Give the endpoint itself."""
        return self.endpoint


class PlainTable:
    """The plain endpoints of some routers by method and path: one look-up, then few patterns.

    A fixed path comes before a template, as routers must list them for the framework.
    """

    def __init__(self, routers: Iterable[APIRouter] = (), prefix: str = "") -> None:
        self._static: dict[tuple[str, str], Endpoint] = {}
        self._templates: dict[str, list[tuple[re.Pattern[str], Endpoint]]] = {}
        for router in routers:
            self._add(router, prefix)

    def with_v1(self, routers: Iterable[APIRouter]) -> "PlainTable":
        """Add routers that are served as written and under `/v1` as well."""
        for router in routers:
            self._add(router, "")
            self._add(router, "/v1")
        return self

    def find(self, method: str, path: str) -> tuple[Endpoint, dict[str, str]] | None:
        """Give the endpoint and the path's parameters, decoded as `path` is."""
        endpoint = self._static.get((method, path))
        if endpoint is not None:
            return endpoint, {}
        for pattern, endpoint in self._templates.get(method, ()):
            found = pattern.fullmatch(path)
            if found:
                return endpoint, found.groupdict()
        return None

    @property
    def fixed(self) -> frozenset[tuple[str, str]]:
        """Methods and paths that need no pattern."""
        return frozenset(self._static)

    def _add(self, router: APIRouter, prefix: str) -> None:
        for route in router.routes:
            if not isinstance(route, PlainRoute) or ":path}" in route.path:
                continue
            path = prefix + route.path
            for method in route.methods or ():
                if "{" in path:
                    entry = (compile_template(path), route.endpoint)
                    self._templates.setdefault(method, []).append(entry)
                else:
                    self._static[method, path] = route.endpoint


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
