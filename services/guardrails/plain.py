"""Bodies of plain routes: read, checked and described, with lone surrogates named by field."""

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from libs.common.plain import body_bytes
from libs.common.problems import from_pydantic

ModelT = TypeVar("ModelT", bound=BaseModel)


async def parse(request: Request, model: type[ModelT]) -> ModelT:
    """Read and check the body in one pass.

    Raises:
        InvalidInputError: not JSON, or a field is wrong; named by JSON pointer, never repeated.
    """
    body = await body_bytes(request)
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
