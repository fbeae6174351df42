"""Routes of Feast's protocol; bodies are parsed whatever their content type."""

import asyncio
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from libs.common.context import current
from libs.common.plain import PlainRoute, body_bytes
from services.features.errors import StillMaterializingError
from services.features.feast import wire
from services.features.feast.read import FeastReader
from services.features.feast.write import FeastWriter

router = APIRouter(tags=["feast"])
# Reads come often and are short: the edge calls them past the framework.
plain = APIRouter(tags=["feast"], route_class=PlainRoute)

_JSON = "application/json"


def _tenant() -> str:
    caller = current().caller
    return caller.tenant if caller else ""


@plain.post("/get-online-features", summary="Feast-compatible online read")
async def get_online_features(request: Request) -> Response:
    """One results object per feature, in the order of `metadata.feature_names`."""
    reader: FeastReader = request.state.feast_reader
    body = await body_bytes(request)
    answer = await reader.read(_tenant(), wire.read_request(body))
    return Response(answer, media_type=_JSON)


@router.post("/push", summary="Feast push")
async def push(request: Request) -> Response:
    """Answer 200 with an empty body after the commit."""
    writer: FeastWriter = request.state.feast_writer
    await writer.push(_tenant(), await request.body())
    return Response(status_code=200)


@router.post("/write-to-online-store", summary="Feast write")
async def write_to_online_store(request: Request) -> Response:
    """Answer `null` after the commit."""
    writer: FeastWriter = request.state.feast_writer
    await writer.write(_tenant(), await request.body())
    return Response(b"null", media_type=_JSON)


@router.post("/materialize", summary="Feast materialize")
async def materialize(request: Request) -> Response:
    """Bring the newest pushed vectors of a span of time online again."""
    return await _materialize(request, is_incremental=False)


@router.post("/materialize-incremental", summary="Feast materialize")
async def materialize_incremental(request: Request) -> Response:
    """Likewise, from where the last materialization ended."""
    return await _materialize(request, is_incremental=True)


async def _materialize(request: Request, *, is_incremental: bool) -> Response:
    writer: FeastWriter = request.state.feast_writer
    running: set[asyncio.Task[None]] = request.state.background
    try:
        job = await writer.begin_materialize(
            _tenant(),
            await request.body(),
            is_incremental=is_incremental,
            is_forced=_flag(request, "force"),
        )
    except StillMaterializingError as error:
        body: dict[str, Any] = {
            "error": error.detail,
            "feature_views": error.extra["feature_views"],
        }
        return Response(orjson.dumps(body), 409, media_type=_JSON)
    work = writer.materialize(_tenant(), *job)
    if not _flag(request, "async"):
        await work
        return Response(b"null", media_type=_JSON)
    task = asyncio.create_task(work)
    running.add(task)
    task.add_done_callback(running.discard)
    accepted = {"status": "accepted", "feature_views": job[1], "job_id": job[0]}
    return Response(orjson.dumps(accepted), 202, media_type=_JSON)


def _flag(request: Request, name: str) -> bool:
    return request.query_params.get(name, "").lower() in {"true", "1"}
