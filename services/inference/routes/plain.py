"""Routes without FastAPI's per-request machinery, yet present in the OpenAPI document.

FastAPI resolves dependencies, validates and re-serialises on every request; on the scoring path
that costs more than the score. Here the endpoint gets the request and gives the response.
"""

import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from libs.common.errors import ServiceError
from libs.common.problems import from_pydantic
from services.inference.metrics import InferenceMetrics

ModelT = TypeVar("ModelT", bound=BaseModel)


class PlainRoute(APIRoute):
    """An API route whose endpoint is called with the request and nothing else."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Give the endpoint itself."""
        return self.endpoint


async def parse(request: Request, model: type[ModelT]) -> ModelT:
    """Read and check the body in one pass.

    Raises:
        BadRequestError: the body is not JSON.
        InvalidInputError: a field is wrong; named by JSON pointer, its value never repeated.
    """
    try:
        return model.model_validate_json(await request.body())
    except ValidationError as error:
        raise from_pydantic(
            error.errors(include_url=False, include_context=False, include_input=False)
        ) from None


def body_of(model: type[BaseModel]) -> dict[str, Any]:
    """Describe a request body for the OpenAPI document."""
    schema = model.model_json_schema()
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


class Measured:
    """Counts and times one call; used as a context manager around an endpoint's body."""

    def __init__(self, metrics: InferenceMetrics, endpoint: str, model: str) -> None:
        self._metrics = metrics
        self._endpoint = endpoint
        self.model = model
        self.version = ""
        self._started = 0.0

    def __enter__(self) -> "Measured":
        self._metrics.active.labels(self._endpoint).inc()
        self._started = time.perf_counter()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        metrics, status = self._metrics, "200"
        metrics.active.labels(self._endpoint).dec()
        if error is not None:
            status, kind = "500", "internal"
            if isinstance(error, ServiceError):
                status, kind = str(error.status), error.problem_code
            metrics.errors.labels(kind, self._endpoint, self.model, self.version).inc()
        metrics.requests.labels(self._endpoint, self.model, self.version, status).inc()
        seconds = time.perf_counter() - self._started
        metrics.duration.labels(self._endpoint, self.model).observe(seconds)
