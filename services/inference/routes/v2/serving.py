"""Runs a decoded V2 request on a loaded model of any kind."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import orjson

from libs.common.context import current
from libs.common.errors import DeadlineExceededError, InvalidInputError, ServiceError
from libs.common.events.envelope import EventEmitter
from libs.common.manifest import TensorSpec
from services.inference.dataplane import DataPlane, is_inline
from services.inference.domain.batching import BULK, DEFAULT, URGENT
from services.inference.domain.ensemble import AnyTextModel, aligned
from services.inference.domain.model import LoadedModel, TabularModel
from services.inference.domain.ports import Rows, Scores
from services.inference.domain.span_head import SpanHead
from services.inference.domain.tensors import DATATYPES, RemoteModel, Tensor, TensorModel
from services.inference.domain.text import TextAnswer
from services.inference.errors import InferenceFailedError, OverloadedError
from services.inference.execution.rows import RowCalls, call_event
from services.inference.metrics import InferenceMetrics
from services.inference.routes.v2.describe import inputs_of, outputs_of
from services.inference.routes.v2.errors import V2BadRequestError
from services.inference.routes.v2.messages import InferRequest, Input, Output, raw_request
from services.inference.scoring.text import TextScorer, spans_body

ENDPOINT = "/v2/models/{name}/infer"
# Texts per call; a bigger list comes in several calls.
TEXTS_MAX = 2_048
# Rows per call of a tabular model.
ROWS_MAX = 100_000
# Generic models run on threads of their own; more calls than these wait, then are refused.
_GENERIC_RUNNING, _GENERIC_WAITING = 2, 64


class V2Serving:
    """Turns named inputs into named outputs."""

    def __init__(
        self,
        plane: DataPlane,
        scorer: TextScorer,
        events: EventEmitter,
        metrics: InferenceMetrics,
    ) -> None:
        self._plane = plane
        self._metrics = metrics
        self._scorer = scorer
        self._events = events
        self._row_calls = RowCalls(plane, events, metrics, ENDPOINT)
        self._generic = asyncio.Semaphore(_GENERIC_RUNNING)
        self._generic_calls = 0

    async def infer(
        self,
        model: LoadedModel,
        request: InferRequest,
        *,
        is_pinned: bool = False,
        subject: str | None = None,
    ) -> list[Output]:
        """Check the request against the model's tensors, run it, give what was asked for.

        Args:
            model: the resolved version.
            request: what was asked.
            is_pinned: the caller named the version, so no rollout gives it another one.
            subject: whom a rollout of a text model assigns; None takes each text itself.

        Raises:
            V2BadRequestError: names, datatypes, shapes or values do not fit the model.
            ServiceError: shed, late or failed.
        """
        _set_timeout(request.parameters)
        specs = inputs_of(model)
        if request.raw is not None:
            if len(specs) != 1:
                raise V2BadRequestError("a raw request needs a model with exactly one input")
            only = specs[0]
            request = raw_request(request.raw, only.name, only.datatype, only.shape)
        _check_inputs(model, specs, request.inputs)
        for one in request.wanted:
            if one.name not in {item.name for item in outputs_of(model)}:
                raise V2BadRequestError(
                    f"unexpected inference output '{one.name}' for model '{model.name}'"
                )
        if isinstance(model, AnyTextModel):
            values = await self._texts(model, request, is_pinned=is_pinned, subject=subject)
        elif isinstance(model, TabularModel) and _is_short(model, request.inputs):
            scores = await self._row_calls.run(model, rows_of(request.inputs))
            values = _both(model, scores)
        else:
            values = await self._timed(model, request)
        datatypes = {item.name: item.datatype for item in outputs_of(model)}
        names = [one.name for one in request.wanted] or list(values)
        classes = {one.name: one.classes for one in request.wanted}
        return [
            classified(model, name, values[name], classes[name])
            if classes.get(name)
            else Output(name, datatypes[name], values[name])
            for name in names
        ]

    async def _texts(
        self, model: AnyTextModel, request: InferRequest, *, is_pinned: bool, subject: str | None
    ) -> dict[str, Tensor]:
        value = request.inputs["text"].value
        try:
            texts = [element.decode("utf-8") for element in value.ravel()]
        except UnicodeDecodeError:
            raise V2BadRequestError("input 'text': an element is not valid UTF-8") from None
        if len(texts) > TEXTS_MAX:
            raise V2BadRequestError(f"input 'text': at most {TEXTS_MAX} texts per call")
        if not texts:
            return _text_tensors(model, [])
        try:
            answered = await self._scorer.score(
                model,
                texts,
                ENDPOINT,
                partial=False,
                priority=_priority(request.parameters),
                is_pinned=is_pinned,
                subject=subject,
            )
        except InvalidInputError as error:
            raise V2BadRequestError(f"input 'text': {error.detail}") from None
        answers = [
            # A candidate may list the same labels in another order.
            replace(
                one.outcome, scores=aligned(model.head.labels, one.model.head, one.outcome.scores)
            )
            for one in answered
            if isinstance(one.outcome, TextAnswer)
        ]
        return _text_tensors(model, answers)

    async def _timed(self, model: LoadedModel, request: InferRequest) -> dict[str, Tensor]:
        """Run a model that is not batched; count and record the call."""
        statistics = self._metrics.statistics.of(model.name, model.version)
        started = time.perf_counter()
        ok = False
        try:
            if isinstance(model, TabularModel):
                values = await self._rows(model, rows_of(request.inputs))
            elif isinstance(model, RemoteModel):
                inputs = {name: one.value for name, one in request.inputs.items()}
                values = await model.engine.infer(inputs)
            else:
                assert isinstance(model, TensorModel), "the repository loads four kinds"
                values = await self._tensors(model, request.inputs)
            ok = True
        finally:
            seconds = time.perf_counter() - started
            rows = max((one.value.shape[0] for one in request.inputs.values()), default=1)
            statistics.request(items=rows if ok else 0, seconds=seconds, ok=ok)
            if ok:
                statistics.batch(rows, 0.0, seconds, 0.0)
        await self._events.emit(call_event(ENDPOINT, model, seconds))
        return values

    async def _rows(self, model: TabularModel, rows: Rows) -> dict[str, Tensor]:
        """Run any number of rows, of an ensemble too."""
        scores = (await self._plane.run_rows(model, rows)).scores if len(rows) else np.empty(0)
        return _both(model, scores)

    async def _tensors(self, model: TensorModel, inputs: Mapping[str, Input]) -> dict[str, Tensor]:
        if self._generic_calls >= _GENERIC_WAITING:
            raise OverloadedError("Exceeds maximum queue size", code="queue_full")
        if not model.manifest.parameters.get("allow_non_finite"):
            for one in inputs.values():
                if one.value.dtype.kind == "f" and not np.isfinite(one.value).all():
                    raise V2BadRequestError(f"input '{one.name}': holds NaN or infinity")
        self._generic_calls += 1
        try:
            left = current().remaining_s(60.0)
            async with asyncio.timeout(left), self._generic:
                return await asyncio.to_thread(
                    model.engine.run, {name: one.value for name, one in inputs.items()}
                )
        except TimeoutError:
            raise DeadlineExceededError("The deadline passed before the model answered.") from None
        except ValueError as error:
            raise V2BadRequestError(str(error)) from None
        except ServiceError:
            raise
        except Exception as error:
            raise InferenceFailedError(f"The model {model.name} could not answer.") from error
        finally:
            self._generic_calls -= 1


def is_cancellable(model: LoadedModel) -> bool:
    """Say whether work is saved when a caller leaves: rows of a tabular model run at once."""
    return not isinstance(model, TabularModel)


def _is_short(model: TabularModel, inputs: Mapping[str, Input]) -> bool:
    count = len(next(iter(inputs.values())).value)
    return count > 0 and is_inline(model, count)


def rows_of(inputs: Mapping[str, Input]) -> Rows:
    """Give the rows of a tabular model's only input as float32.

    Raises:
        V2BadRequestError: too many, or one holds infinity.
    """
    rows = next(iter(inputs.values())).value
    if len(rows) > ROWS_MAX:
        raise V2BadRequestError(f"at most {ROWS_MAX} rows per call")
    if np.isinf(rows).any():
        raise V2BadRequestError("an input holds infinity; NaN means missing")
    return np.ascontiguousarray(rows, np.float32)


def _both(model: TabularModel, scores: Scores) -> dict[str, Tensor]:
    """Give the probabilities of both classes, shape (n, 2)."""
    both = np.empty((len(scores), 2), np.float32)
    both[:, 0], both[:, 1] = 1.0 - scores, scores
    return {model.manifest.outputs[0].name: both}


def _text_tensors(model: AnyTextModel, answers: Sequence[TextAnswer]) -> dict[str, Tensor]:
    scores = np.array([one.scores for one in answers], dtype=np.float32)
    tensors = {
        "probabilities": scores.reshape(len(answers), len(model.head.labels)),
        "label": _bytes([one.label.encode() for one in answers]),
        "windows": np.array([one.windows for one in answers], dtype=np.int32),
    }
    if isinstance(model.head, SpanHead):
        tensors["spans"] = _bytes([orjson.dumps(spans_body(one)) for one in answers])
    return tensors


def _bytes(values: Sequence[bytes]) -> Tensor:
    found = np.empty(len(values), dtype=np.object_)
    found[:] = values
    return found


def classified(model: LoadedModel, name: str, value: Tensor, classes: int) -> Output:
    """Give the top classes of each row as `<value>:<index>[:<label>]`, highest first.

    Raises:
        V2BadRequestError: the output holds no numbers.
    """
    if value.dtype == np.object_:
        raise V2BadRequestError(f"output '{name}': only numbers can be classified")
    rows = value.reshape(len(value), -1) if value.ndim > 1 else value.reshape(1, -1)
    labels = model.manifest.labels if len(model.manifest.labels) == rows.shape[1] else []
    count = min(classes, rows.shape[1])
    found = np.empty((len(rows), count), dtype=np.object_)
    for number, row in enumerate(rows):
        order = np.argsort(-row, kind="stable")[:count]
        for place, index in enumerate(order):
            label = f":{labels[index]}" if labels else ""
            found[number, place] = f"{float(row[index]):f}:{index}{label}".encode()
    return Output(name, "BYTES", found)


def _check_inputs(
    model: LoadedModel, specs: Sequence[TensorSpec], inputs: Mapping[str, Input]
) -> None:
    """Hold names, datatypes and shapes to the model's."""
    known = {item.name: item for item in specs}
    for name in inputs:
        if name not in known:
            raise V2BadRequestError(f"unexpected inference input '{name}' for model '{model.name}'")
    missing = [name for name in known if name not in inputs]
    if missing:
        raise V2BadRequestError(
            f"expected {len(known)} inputs but got {len(inputs)} inputs for model "
            f"'{model.name}'. Got input(s) {sorted(inputs)}, but missing required input(s) "
            f"{missing}."
        )
    for name, one in inputs.items():
        spec, shape = known[name], list(one.value.shape)
        if one.datatype != spec.datatype:
            raise V2BadRequestError(
                f"inference input '{name}' data-type is '{one.datatype}', but model "
                f"'{model.name}' expects '{spec.datatype}'"
            )
        if isinstance(model, AnyTextModel) and len(shape) == 2 and shape[1] == 1:
            continue  # one column of texts, as batching clients send it
        fits = len(shape) == len(spec.shape) and all(
            wanted in (-1, size) for wanted, size in zip(spec.shape, shape, strict=True)
        )
        if not fits:
            raise V2BadRequestError(
                f"unexpected shape for input '{name}' for model '{model.name}'. "
                f"Expected {spec.shape}, got {shape}"
            )
        assert one.value.dtype.kind == DATATYPES[spec.datatype].kind


def _priority(parameters: Mapping[str, object]) -> int | None:
    """Map V2's priority (0 default, 1 highest) to lanes.

    Raises:
        V2BadRequestError: no integer from 0 on.
    """
    value = parameters.get("priority", 0)
    if type(value) is not int or value < 0:
        raise V2BadRequestError("priority must be 0 or a positive integer")
    return {0: None, 1: URGENT, 2: DEFAULT}.get(value, BULK)


def _set_timeout(parameters: Mapping[str, object]) -> None:
    """Let V2's `timeout`, in microseconds, shorten the request's deadline.

    Raises:
        V2BadRequestError: no positive integer.
    """
    value = parameters.get("timeout")
    if value is None:
        return
    if type(value) is not int or value < 0:
        raise V2BadRequestError("timeout must be a number of microseconds")
    if value:
        context, ours = current(), time.monotonic() + value / 1e6
        context.deadline = min(context.deadline or ours, ours)
