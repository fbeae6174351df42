"""Paths of the V2 protocol."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from libs.common.errors import NotFoundError
from libs.common.plain import PlainRoute, body_bytes
from libs.common.platform import Platform
from services.inference.adapters.repository import ModelRepository
from services.inference.dataplane import check_access
from services.inference.domain.lifecycle import VersionState
from services.inference.domain.model import LoadedModel
from services.inference.errors import ModelNotLoadedError, UnknownModelError
from services.inference.metrics import InferenceMetrics
from services.inference.routes.measured import Measured
from services.inference.routes.predict import subject_of, unless_gone
from services.inference.routes.v2 import describe, lifecycle
from services.inference.routes.v2.errors import (
    V2BadRequestError,
    V2NotServedError,
    V2UnknownModelError,
)
from services.inference.routes.v2.messages import (
    HEADER_LENGTH,
    compress,
    decode_request,
    decompress,
    encode_response,
)
from services.inference.routes.v2.serving import ENDPOINT, V2Serving, is_cancellable

router = APIRouter(route_class=PlainRoute, tags=["Open Inference Protocol"])

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
# Answers smaller than this grow when compressed.
_COMPRESSED_FROM_BYTES = 256
# Triton has these extensions, this server does not.
_NOT_SERVED = re.compile(
    r"(systemsharedmemory|cudasharedmemory|logging|trace|models/[^/]+/trace)(/.*)?"
)


@dataclass(frozen=True, slots=True)
class OpenInference:
    """What these routes use, under `request.state.v2`."""

    repository: ModelRepository
    control: lifecycle.Control
    serving: V2Serving
    metrics: InferenceMetrics
    platform: Platform
    server_name: str
    batch_max: int

    def find(self, name: str, version: str | None) -> LoadedModel:
        """Give the serving version, or the one asked for.

        Raises:
            V2UnknownModelError: no such model, or the version is not loaded.
        """
        if not _NAME.fullmatch(name):
            raise V2UnknownModelError(name[:64])
        try:
            if version is None:
                return self.repository.serving(name)
            if not version.isdigit() or len(version) > 9:
                raise V2UnknownModelError(name, version[:9])
            return self.repository.loaded(name, int(version))
        except (ModelNotLoadedError, UnknownModelError):
            raise V2UnknownModelError(name, version) from None

    def ready_versions(self, name: str) -> list[str]:
        """List the loaded versions, oldest first."""
        return [
            str(status.version)
            for status in reversed(self.repository.versions(name))
            if status.state is VersionState.READY
        ]


def _json(document: object) -> Response:
    return Response(orjson.dumps(document), media_type="application/json")


def _state(request: Request) -> OpenInference:
    found: OpenInference = request.state.v2
    return found


def _model(request: Request, v2: OpenInference | None = None) -> LoadedModel:
    parameters = request.path_params
    return (v2 or _state(request)).find(parameters["name"], parameters.get("version"))


async def _document(request: Request) -> Mapping[str, Any]:
    """Read an optional JSON object."""
    body = await body_bytes(request)
    if not body.strip():
        return {}
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise V2BadRequestError("failed to parse the request JSON") from None
    if not isinstance(document, dict):
        raise V2BadRequestError("the request must be a JSON object")
    return document


@router.get("/v2", summary="Open Inference Protocol: server metadata")
async def server(request: Request) -> Response:
    """Name the server and its extensions."""
    return _json(
        {
            "name": _state(request).server_name,
            "version": describe.SERVER_VERSION,
            "extensions": list(describe.EXTENSIONS),
        }
    )


@router.get("/v2/health/live", summary="Open Inference Protocol: liveness")
async def live(request: Request) -> Response:
    """Say that the process answers."""
    return _json({"live": True})


@router.get("/v2/health/ready", summary="Open Inference Protocol: readiness")
async def ready(request: Request) -> Response:
    """Say whether new work should be sent here; 503 while starting or draining."""
    is_ready = _state(request).platform.health.is_ready
    answer = _json({"ready": is_ready})
    answer.status_code = 200 if is_ready else 503
    return answer


@router.get("/v2/models", summary="Open Inference Protocol: names of the models that serve")
async def names(request: Request) -> Response:
    """List models with a serving version."""
    return _json({"models": _state(request).repository.ready_names})


@router.get("/v2/models/stats", summary="Open Inference Protocol: statistics of all models")
async def all_statistics(request: Request) -> Response:
    """Give the statistics of every loaded version."""
    v2 = _state(request)
    models = [
        v2.find(name, version)
        for name in v2.repository.ready_names
        for version in v2.ready_versions(name)
    ]
    return _json({"model_stats": [_statistics(v2, model) for model in models]})


@router.get("/v2/models/{name}", summary="Open Inference Protocol: model metadata")
@router.get("/v2/models/{name}/versions/{version}", include_in_schema=False)
async def model_metadata(request: Request) -> Response:
    """Describe a model's tensors."""
    model = _model(request)
    return _json(describe.metadata(model, _state(request).ready_versions(model.name)))


@router.get("/v2/models/{name}/ready", summary="Open Inference Protocol: model readiness")
@router.get("/v2/models/{name}/versions/{version}/ready", include_in_schema=False)
async def model_ready(request: Request) -> Response:
    """Answer 200 for a loaded version, 400 otherwise, as Triton does."""
    try:
        model = _model(request)
    except V2UnknownModelError as error:
        raise V2BadRequestError(error.detail) from None
    return _json({"name": model.name, "ready": True})


@router.get("/v2/models/{name}/config", summary="Open Inference Protocol: model configuration")
@router.get("/v2/models/{name}/versions/{version}/config", include_in_schema=False)
async def model_config(request: Request) -> Response:
    """Give the configuration with labels, activation and thresholds."""
    return _json(describe.configuration(_model(request), batch_max=_state(request).batch_max))


@router.get("/v2/models/{name}/stats", summary="Open Inference Protocol: model statistics")
@router.get("/v2/models/{name}/versions/{version}/stats", include_in_schema=False)
async def model_statistics(request: Request) -> Response:
    """Give counts and times of one model."""
    v2, model = _state(request), _model(request)
    return _json({"model_stats": [_statistics(v2, model)]})


@router.post("/v2/models/{name}/infer", summary="Open Inference Protocol: infer")
@router.post("/v2/models/{name}/versions/{version}/infer", include_in_schema=False)
async def infer(request: Request) -> Response:
    """Run a model on tensors, JSON or binary, both ways."""
    v2 = _state(request)
    with Measured(v2.metrics, ENDPOINT, "") as measured:
        try:
            model = _model(request, v2)
        except V2UnknownModelError:
            request.state.texts.want(str(request.path_params["name"]))
            raise
        check_access(model)
        measured.model, measured.version = model.name, model.version
        body = decompress(await body_bytes(request), request.headers.get("content-encoding", ""))
        wanted = decode_request(body, request.headers.get(HEADER_LENGTH))
        work = v2.serving.infer(
            model,
            wanted,
            is_pinned="version" in request.path_params,
            subject=subject_of(request),
        )
        outputs = await (unless_gone(request, work) if is_cancellable(model) else work)
        content, json_size = encode_response(wanted, model.name, model.version, outputs)
        headers = {}
        if json_size is not None:
            headers[HEADER_LENGTH] = str(json_size)
        if len(content) >= _COMPRESSED_FROM_BYTES:
            content, encoding = compress(content, request.headers.get("accept-encoding", ""))
            if encoding:
                headers["content-encoding"] = encoding
        kind = "application/json" if json_size is None else "application/octet-stream"
        return Response(content, media_type=kind, headers=headers)


@router.post("/v2/repository/index", summary="Open Inference Protocol: repository index")
async def repository_index(request: Request) -> Response:
    """List versions with their states."""
    document = await _document(request)
    only_ready = document.get("ready", False)
    if not isinstance(only_ready, bool):
        raise V2BadRequestError("ready must be true or false")
    return _json(lifecycle.index(_state(request).repository, only_ready=only_ready))


@router.post("/v2/repository/models/{name}/load", summary="Open Inference Protocol: load")
async def repository_load(request: Request) -> Response:
    """Load a model and answer when it is ready."""
    name, parameters = _name(request), _parameters(await _document(request))
    v2 = _state(request)
    await lifecycle.load(v2.repository, v2.control, name, parameters)
    return _json({"name": name, "load": True})


@router.post("/v2/repository/models/{name}/unload", summary="Open Inference Protocol: unload")
async def repository_unload(request: Request) -> Response:
    """Take a model out of service."""
    name = _name(request)
    _parameters(await _document(request))
    await lifecycle.unload(_state(request).control, name)
    return _json({"name": name, "unload": True})


@router.get("/v2/{rest:path}", include_in_schema=False)
@router.post("/v2/{rest:path}", include_in_schema=False)
async def elsewhere(request: Request) -> Response:
    """Name what this server does not have."""
    if _NOT_SERVED.fullmatch(request.path_params["rest"]):
        raise V2NotServedError("this extension is not supported by this server")
    raise NotFoundError("no such path of the Open Inference Protocol")


def _name(request: Request) -> str:
    name: str = request.path_params["name"]
    if not _NAME.fullmatch(name):
        raise V2UnknownModelError(name[:64])
    return name


def _parameters(document: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = document.get("parameters", {})
    if not isinstance(parameters, dict):
        raise V2BadRequestError("parameters must be an object")
    return parameters


def _statistics(v2: OpenInference, model: LoadedModel) -> dict[str, Any]:
    found = v2.metrics.statistics.of(model.name, model.version)
    return found.to_wire(model.name, model.version, model.memory_bytes)
