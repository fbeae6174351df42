"""HTTP of the transparency log: checkpoint, tiles, entry bundles, leaves, proofs."""

import asyncio

from fastapi import APIRouter, Request, Response

from libs.common.errors import NotFoundError, UnavailableError
from libs.common.transparency.proof import ProofFile
from libs.common.transparency.tiles import (
    HASH_BYTES,
    LEVEL_MAX,
    TILE_WIDTH,
    bundle,
    parse_tile_path,
)
from libs.common.transparency.tree import inclusion_ranges
from services.audit.errors import PrunedError
from services.audit.routes import find_event, state_of

router = APIRouter(tags=["log"])

_IMMUTABLE = {"cache-control": "public, max-age=31536000, immutable"}


@router.get("/checkpoint", summary="Latest signed checkpoint")
async def checkpoint(request: Request) -> Response:
    """Give the newest signed note."""
    last = await state_of(request).checkpoints.latest()
    if last is None:
        raise UnavailableError("No checkpoint has been published yet.")
    return Response(
        last["note"],
        media_type="text/plain; charset=utf-8",
        headers={"cache-control": "no-store"},
    )


@router.get("/tile/{rest:path}", summary="Tiles of the transparency log")
async def tile(request: Request, rest: str) -> Response:
    """Serve `/tile/<L>/<N>[.p/<W>]` and `/tile/entries/<N>[.p/<W>]` (C2SP tlog-tiles)."""
    level, _, path = rest.partition("/")
    try:
        number, width = parse_tile_path(path)
        if level != "entries" and str(int(level)) != level:
            raise ValueError("not a canonical level")
    except ValueError:
        raise NotFoundError("Not a tile path of tlog-tiles.") from None
    if level == "entries":
        return await _bundle(request, number, width)
    if not 0 <= int(level) <= LEVEL_MAX:
        raise NotFoundError("Not a tile path of tlog-tiles.")
    hashes = await state_of(request).reader.tile(int(level), number) or b""
    if len(hashes) < width * HASH_BYTES:
        raise NotFoundError("The log has not grown to this tile yet.")
    return _binary(hashes[: width * HASH_BYTES])


async def _bundle(request: Request, number: int, width: int) -> Response:
    reader = state_of(request).reader
    state = await reader.state()
    if number * TILE_WIDTH + width > state.size:
        raise NotFoundError("The log has not grown to this bundle yet.")
    if (number + 1) * TILE_WIDTH <= state.min_index:
        raise PrunedError("These entries were removed under the retention policy.")
    return _binary(bundle(await reader.bundle_entries(number, width)))


def _binary(data: bytes) -> Response:
    return Response(data, media_type="application/octet-stream", headers=_IMMUTABLE)


@router.get("/v1/audit/events/{event_id}/leaf", summary="Exact leaf bytes of an event")
async def leaf(request: Request, event_id: str) -> Response:
    """Give the bytes that the tree hashed."""
    index = (await find_event(request, event_id))["index"]
    found = await state_of(request).reader.leaves(index, index + 1)
    if not found:
        raise PrunedError("The leaf was removed under the retention policy.")
    return Response(found[0], media_type="application/json", headers={"x-leaf-index": str(index)})


@router.get("/v1/audit/events/{event_id}/proof", summary="Inclusion proof")
async def proof(request: Request, event_id: str) -> Response:
    """Give a `.tlog-proof`, verifiable offline against the log's verifier key."""
    state = state_of(request)
    item, last = await asyncio.gather(find_event(request, event_id), state.checkpoints.latest())
    index = item["index"]
    if last is None or last["size"] <= index:
        raise UnavailableError(
            "The event is in the log, but no checkpoint covers it yet.",
            hint="One is published every second.",
        )
    hashes = await state.reader.proof(inclusion_ranges(index, last["size"]))
    text = ProofFile(index, tuple(hashes), last["note"]).text()
    return Response(text, media_type="text/plain; charset=utf-8")
