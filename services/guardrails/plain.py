"""Routes without FastAPI's per-request machinery, yet present in the OpenAPI document.

FastAPI resolves dependencies, validates and re-serialises on every request; for a short text that
costs as much as the check. Here the endpoint gets the request and gives the response.
"""

import json
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import orjson
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from libs.common.problems import from_pydantic

ModelT = TypeVar("ModelT", bound=BaseModel)


class PlainRoute(APIRoute):
    """An API route whose endpoint is called with the request and nothing else."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Give the endpoint itself."""
        return self.endpoint


async def parse(request: Request, model: type[ModelT]) -> ModelT:
    """Read and check the body in one pass.

    Raises:
        InvalidInputError: not JSON, or a field is wrong; named by JSON pointer, never repeated.
    """
    body = await request.body()
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise from_pydantic(_reasons(body, model, error)) from None


def _reasons(body: bytes, model: type[BaseModel], error: ValidationError) -> list[Any]:
    """Give what is wrong, by field.

    Pydantic's JSON reader refuses a lone surrogate as if all of the body were broken; Python's
    takes it, and the field that holds it can be named.
    """
    try:
        model.model_validate(json.loads(body))
    except ValidationError as named:
        error = named
    except ValueError:  # no JSON at all: the first error says so
        pass
    return list(error.errors(include_url=False, include_context=False, include_input=False))


def answer(document: object) -> Response:
    """Give a JSON response."""
    return Response(orjson.dumps(document), media_type="application/json")


def described(body: type[BaseModel], result: type[BaseModel]) -> dict[str, Any]:
    """Describe body and answer of a plain route for the OpenAPI document."""
    return {
        "openapi_extra": {
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": body.model_json_schema()}},
            }
        },
        "responses": {200: {"model": result}},
    }
