"""WebSocket /v1/guardrails/stream: text in, checked text out.

Frames in: `{"type": "open", "policy"?, "direction"?}`, `{"type": "text", "seq", "delta"}`,
`{"type": "end"}`. Frames out: `release {start, end, text}`, `verdict`, `blocked {error}`. A client
that stops reading stops us reading: a frame is taken only after the answer to the last one is sent.
"""

import time
from contextlib import suppress
from typing import Annotated, Any, Literal

from fastapi import APIRouter, WebSocket
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.websockets import WebSocketDisconnect

from libs.common.context import current
from libs.common.errors import ServiceError
from services.guardrails.adapters.local import INLINE_BYTES_MAX, LocalValidator
from services.guardrails.checker import Checker
from services.guardrails.domain.lexical import UnboundedError
from services.guardrails.domain.streaming import Blocked, Holdback, Release
from services.guardrails.domain.verdict import Decision
from services.guardrails.schemas import POLICY_REFERENCE, Text
from services.guardrails.stream_judge import StreamJudge

router = APIRouter(tags=["guardrails"])
DELTA_CHARS_MAX = 65_536
# Close codes of RFC 6455: a frame that is not ours, and a policy that says no.
_BAD_FRAME, _REFUSED = 1007, 1008


class _Frame(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class OpenFrame(_Frame):
    """Starts a stream."""

    type: Literal["open"]
    policy: str | None = Field(default=None, pattern=POLICY_REFERENCE)
    direction: Literal["input", "output"] = "input"


class TextFrame(_Frame):
    """A further piece of the text; `seq` counts from 0."""

    type: Literal["text"]
    seq: int = Field(ge=0)
    delta: Annotated[Text, Field(max_length=DELTA_CHARS_MAX)]


class EndFrame(_Frame):
    """Ends the text."""

    type: Literal["end"]


_OPEN: TypeAdapter[OpenFrame] = TypeAdapter(OpenFrame)
_NEXT: TypeAdapter[TextFrame | EndFrame] = TypeAdapter(
    Annotated[TextFrame | EndFrame, Field(discriminator="type")]
)


class StreamRefusedError(Exception):
    """The stream cannot go on; `code` is for the `blocked` frame, `close` for the socket."""

    def __init__(self, code: str, message: str, close: int = _BAD_FRAME) -> None:
        super().__init__(message)
        self.code = code
        self.close = close


@router.websocket("/v1/guardrails/stream")
async def stream(socket: WebSocket) -> None:
    """Serve one stream."""
    await socket.accept()
    socket.state.metrics.streams.inc()
    try:
        await _serve(socket)
    except StreamRefusedError as refused:
        # RuntimeError: the client closed meanwhile, there is nobody to tell.
        with suppress(WebSocketDisconnect, RuntimeError):
            await socket.send_json(_blocked(refused.code, str(refused)))
            await socket.close(refused.close)
    except WebSocketDisconnect:
        pass
    finally:
        socket.state.metrics.streams.dec()


async def _serve(socket: WebSocket) -> None:
    checker: Checker = socket.state.checker
    started = time.perf_counter()
    judge, buffer, policy, digest = await _open(checker, await _frame(socket, _OPEN))

    async def record(*, blocked: bool) -> tuple[str, Decision]:
        guarded = buffer.total if blocked else buffer.released
        decision = judge.decision(buffer.total, guarded, blocked=blocked)
        latency_ms = round((time.perf_counter() - started) * 1e3, 3)
        try:
            event_id = await checker.record(policy, decision, digest.hexdigest(), latency_ms)
        except ServiceError:
            raise StreamRefusedError(
                "unavailable", "The verdict cannot be recorded.", 1011
            ) from None
        return event_id, decision

    try:
        is_blocked = await _relay(socket, buffer, digest)
    except (StreamRefusedError, WebSocketDisconnect):
        # What was judged before the client left or broke the protocol is a decision too.
        await record(blocked=False)
        raise
    event_id, decision = await record(blocked=is_blocked)
    if is_blocked:
        await socket.send_json(_blocked("content_blocked", "The policy blocks this text."))
        await socket.close(_REFUSED)
        return
    await socket.send_json(_verdict(event_id, decision))
    await socket.close()


async def _relay(socket: WebSocket, buffer: Holdback, digest: Any) -> bool:
    """Take frames until the end or a block; say whether it was a block."""
    seq = 0
    while True:
        frame = await _frame(socket, _NEXT)
        if isinstance(frame, TextFrame):
            if frame.seq != seq:
                raise StreamRefusedError("out_of_order", "seq must count from 0 without gaps")
            seq += 1
            digest.update(frame.delta.encode())
            is_small = len(frame.delta) + len(buffer.kept) <= INLINE_BYTES_MAX
            if is_small:
                outcome = buffer.push(frame.delta)
            else:
                outcome = await socket.state.offload(buffer.push, frame.delta)
        else:
            outcome = await socket.state.offload(buffer.finish)
        if isinstance(outcome, Release):
            await socket.send_json({"type": "release", **_shape(outcome)})
        if isinstance(outcome, Blocked) or isinstance(frame, EndFrame):
            return isinstance(outcome, Blocked)


def _verdict(event_id: str, decision: Decision) -> dict[str, Any]:
    return {
        "type": "verdict",
        "id": event_id,
        "action": decision.action.value,
        "status": decision.status.value,
        "score": decision.score,
        "labels": sorted({label for v in decision.verdicts for label in v.labels}),
        "length": decision.total,
    }


async def _open(checker: Checker, frame: OpenFrame) -> tuple[StreamJudge, Holdback, Any, Any]:
    caller = current().caller
    tenant = caller.tenant if caller else ""
    try:
        policy = await checker.guard.policies.resolve(tenant, frame.policy)
    except ServiceError as error:
        raise StreamRefusedError(error.problem_code, error.detail, _REFUSED) from None
    detectors = {
        name: validator.detector
        for name, validator in checker.guard.validators.items()
        if isinstance(validator, LocalValidator)
    }
    missing = [rule.name for rule in policy.body.validators if rule.name not in detectors]
    if missing:
        raise StreamRefusedError(
            "not_built", f"The validator {missing[0]} does not check streams yet.", _REFUSED
        )
    try:
        judge = StreamJudge(policy, detectors, checker.guard.keys(tenant))
    except UnboundedError as error:
        raise StreamRefusedError("unbounded", f"The policy cannot stream: {error}.") from None
    buffer = Holdback(judge, judge.edit, hold=judge.hold)
    return judge, buffer, policy, checker.guard.digester(tenant)


async def _frame(socket: WebSocket, adapter: TypeAdapter[Any]) -> Any:
    message = await socket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1006))
    try:
        return adapter.validate_json(message.get("text") or "")
    except ValidationError:
        raise StreamRefusedError("bad_frame", "The frame is not one of the protocol.") from None


def _shape(release: Release) -> dict[str, Any]:
    return {"start": release.start, "end": release.end, "text": release.text}


def _blocked(code: str, message: str) -> dict[str, Any]:
    error = {"message": message, "type": "guardrails_violation", "param": None, "code": code}
    return {"type": "blocked", "error": error}
