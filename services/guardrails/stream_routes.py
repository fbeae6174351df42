"""WebSocket /v1/guardrails/stream: text in, checked text out.

Frames in: `{"type": "open", "policy"?, "direction"?}`, `{"type": "text", "seq", "delta"}`,
`{"type": "end"}`. Frames out: `release {start, end, text}`, `verdict`, `blocked {error}`. A client
that stops reading stops us reading: a frame is taken only after the answer to the last one is sent.
"""

import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, WebSocket
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.websockets import WebSocketDisconnect

from libs.common.context import current
from libs.common.errors import ServiceError
from services.guardrails.adapters.entities_v2 import PiiWithNames
from services.guardrails.adapters.inference_v2 import InjectionValidator
from services.guardrails.adapters.local import INLINE_BYTES_MAX, LocalValidator
from services.guardrails.checker import Checker
from services.guardrails.domain.lexical import UnboundedError
from services.guardrails.domain.policy import Policy, ValidatorRule
from services.guardrails.domain.streaming import Blocked, Holdback, Release
from services.guardrails.domain.verdict import Decision
from services.guardrails.schemas import POLICY_REFERENCE, Text
from services.guardrails.stream_judge import StreamJudge
from services.guardrails.stream_models import ModelGate

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


@dataclass
class _Session:
    """One open stream."""

    policy: Policy
    judge: StreamJudge
    buffer: Holdback
    gate: ModelGate | None
    digest: Any
    received: int = 0


async def _serve(socket: WebSocket) -> None:
    checker: Checker = socket.state.checker
    started = time.perf_counter()
    session = await _open(checker, await _frame(socket, _OPEN))

    async def record(*, blocked: bool) -> tuple[str, Decision]:
        guarded = session.received if blocked else session.buffer.released
        decision = session.judge.decision(session.received, guarded, blocked=blocked)
        latency_ms = round((time.perf_counter() - started) * 1e3, 3)
        try:
            event_id = await checker.record(
                session.policy, decision, session.digest.hexdigest(), latency_ms
            )
        except ServiceError:
            raise StreamRefusedError(
                "unavailable", "The verdict cannot be recorded.", 1011
            ) from None
        return event_id, decision

    try:
        is_blocked = await _relay(socket, session)
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


async def _relay(socket: WebSocket, session: _Session) -> bool:
    """Take frames until the end or a block; say whether it was a block."""
    seq = 0
    while True:
        frame = await _frame(socket, _NEXT)
        text, is_end = "", isinstance(frame, EndFrame)
        if isinstance(frame, TextFrame):
            if frame.seq != seq:
                raise StreamRefusedError("out_of_order", "seq must count from 0 without gaps")
            seq += 1
            text = frame.delta
            session.digest.update(text.encode())
            session.received += len(text)
        is_blocked = False
        if session.gate is not None:
            passed = await session.gate.push(text, ended=is_end)
            session.judge.remember(passed.verdicts)
            text, is_blocked = passed.text, passed.is_blocked
        if await _advance(socket, session.buffer, text, is_end=is_end and not is_blocked):
            return True
        if is_blocked or is_end:
            return is_blocked


async def _advance(socket: WebSocket, buffer: Holdback, text: str, *, is_end: bool) -> bool:
    """Push text through the hold-back buffer and send what left; say whether it blocks."""
    steps: list[tuple[Any, ...]] = [(buffer.push, text)] if text else []
    if is_end:
        steps.append((buffer.finish,))
    for step, *arguments in steps:
        if len(text) + len(buffer.kept) <= INLINE_BYTES_MAX:
            outcome = step(*arguments)
        else:
            outcome = await socket.state.offload(step, *arguments)
        if isinstance(outcome, Release):
            await socket.send_json({"type": "release", **_shape(outcome)})
        if isinstance(outcome, Blocked):
            return True
    return False


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


async def _open(checker: Checker, frame: OpenFrame) -> _Session:
    caller = current().caller
    tenant = caller.tenant if caller else ""
    guard = checker.guard
    try:
        policy = await guard.policies.resolve(tenant, frame.policy)
    except ServiceError as error:
        raise StreamRefusedError(error.problem_code, error.detail, _REFUSED) from None
    detectors: dict[str, Any] = {}
    windowed: list[ValidatorRule] = []
    for rule in policy.body.validators:
        validator = guard.validators.get(rule.name)
        local = validator
        if isinstance(validator, InjectionValidator | PiiWithNames):
            local = validator.rules
        is_pattern = isinstance(local, LocalValidator) and local.kind != "window"
        if isinstance(local, LocalValidator) and is_pattern:
            detectors[rule.name] = local.detector
        if not is_pattern:
            windowed.append(rule)
        elif rule.params.get("model"):
            # The rules see the whole stream in the buffer; of the windows only the model's part.
            only = {**rule.params, "model": "only"} if rule.name == PiiWithNames.name else None
            windowed.append(rule.model_copy(update={"params": only}) if only else rule)
    try:
        judge = StreamJudge(policy, detectors, guard.keys(tenant))
    except UnboundedError as error:
        raise StreamRefusedError("unbounded", f"The policy cannot stream: {error}.") from None
    gate = None
    if windowed:
        gate = ModelGate(partial(guard.verdicts, policy=policy, rules=tuple(windowed)))
    buffer = Holdback(judge, judge.edit, hold=judge.hold)
    return _Session(policy, judge, buffer, gate, guard.digester(tenant))


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
