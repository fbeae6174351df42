"""The one transport-free way to a model: resolve a name, run the engine, measure.

Every front end comes through here. Tabular calls of few rows run inline on the event loop, where a
thread hop would cost more than the call.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from libs.common.context import current
from libs.common.errors import ForbiddenError
from libs.common.manifest import EnsembleMember, EnsembleSpec, VersionReference
from services.inference.domain.ensemble import EnsembleFacts, Part, Status, suffices, vote_on_rows
from services.inference.domain.model import LoadedModel, TabularModel
from services.inference.domain.ports import Rows, Scores
from services.inference.domain.repository import Repository
from services.inference.drift import DriftMonitor
from services.inference.errors import (
    EnsembleUnavailableError,
    InferenceFailedError,
    ModelNotLoadedError,
)
from services.inference.metrics import InferenceMetrics

# 64 rows of the fraud model took 0.14 ms in ONNX Runtime; the bound for work on the loop is 1 ms.
INLINE_ROWS_MAX = 64
# Threads for members of ensembles, and late answers of one member after which it is not asked until
# one of them comes back.
_MEMBER_THREADS, _LATE_MAX = 8, 2


@dataclass(frozen=True, slots=True)
class TabularAnswer:
    """Calibrated scores, shape (n,), and the seconds that the model took.

    Attributes:
        parts: of an ensemble, what became of each member; empty for a single model.
        agreement: of an ensemble, per row.
    """

    scores: Scores
    model_s: float
    parts: tuple[Part, ...] = ()
    agreement: Scores | None = None
    method: str = ""

    def facts(self, index: int) -> EnsembleFacts | None:
        """Say who took part in one row's answer, None for a single model."""
        if not self.parts:
            return None
        if self.agreement is None:
            return EnsembleFacts(self.method, self.parts, 0.0, is_fallback=True)
        return EnsembleFacts(self.method, self.parts, float(self.agreement[index]))


class DataPlane:
    """Runs models by name."""

    def __init__(
        self, repository: Repository, metrics: InferenceMetrics, *, drift_event_s: float = 300.0
    ) -> None:
        self.repository = repository
        self._metrics = metrics
        self.drift = DriftMonitor(metrics, event_s=drift_event_s)
        self.on_missing: Callable[[str], None] = lambda _: None
        self._members = _Members(repository)

    def resolve(self, name: str) -> TabularModel:
        """Give the serving version; every step of one answer must use the same one.

        Raises:
            ModelNotLoadedError: none is ready.
            ForbiddenError: the model asks for a scope that the caller does not hold.
        """
        try:
            model = self.repository.serving(name)
        except ModelNotLoadedError:
            self.on_missing(name)
            raise
        check_access(model)
        if not isinstance(model, TabularModel):
            raise ModelNotLoadedError(f"The model {name} is no tabular model.")
        return model

    def resolve_version(self, name: str, version: int) -> TabularModel:
        """Give one loaded version, for a rollout.

        Raises:
            ModelNotLoadedError: it is not loaded.
        """
        model = self.repository.loaded(name, version)
        if not isinstance(model, TabularModel):
            raise ModelNotLoadedError(f"The model {name} is no tabular model.")
        return model

    async def run_rows(self, model: TabularModel, rows: Rows) -> TabularAnswer:
        """Score rows with one engine call.

        Args:
            model: a version given by `resolve`.
            rows: shape (n, features), float32, NaN where missing.

        Raises:
            InferenceFailedError: the engine failed, or a score is not finite.
        """
        if is_inline(model, len(rows)):
            return self.run_inline(model, rows)
        started = time.perf_counter()
        if model.ensemble is None:
            answer = TabularAnswer(await _scores(model, rows), time.perf_counter() - started)
        else:
            combined = await self._ensemble(model, model.ensemble, rows)
            answer = replace(combined, model_s=time.perf_counter() - started)
        return self._counted(model, rows, answer)

    def run_inline(self, model: TabularModel, rows: Rows) -> TabularAnswer:
        """Score rows for which `is_inline` holds, on the event loop; else as `run_rows`."""
        started = time.perf_counter()
        with _as_service_error(model):
            scores = _run(model, rows)
        _check_finite(model, scores)
        return self._counted(model, rows, TabularAnswer(scores, time.perf_counter() - started))

    def _counted(self, model: TabularModel, rows: Rows, answer: TabularAnswer) -> TabularAnswer:
        self.drift.add(model, rows, answer.scores)
        self._metrics.model_inference.labels(model.name, model.version).observe(answer.model_s)
        self._metrics.batch_size.labels(model.name).observe(len(rows))
        return answer

    async def _ensemble(self, model: TabularModel, spec: EnsembleSpec, rows: Rows) -> TabularAnswer:
        """Ask all members at the same time, each within its deadline, and combine."""
        found = await asyncio.gather(
            *(self._members.ask(item, spec, rows) for item in spec.members)
        )
        parts = tuple(
            Part(item, status) for item, (status, _) in zip(spec.members, found, strict=True)
        )
        for part in parts:
            self._metrics.ensemble_members.labels(model.name, part.member.model, part.status).inc()
        if suffices(spec, [part.status for part in parts]):
            votes = [
                (part.member.weight, scores)
                for part, (_, scores) in zip(parts, found, strict=True)
                if scores is not None
            ]
            scores, agreement = vote_on_rows(spec, votes)
            return TabularAnswer(scores, 0.0, parts, agreement, spec.method)
        if spec.fallback is not None:
            scores = await _scores(self._members.find(spec.fallback), rows)
            return TabularAnswer(scores, 0.0, parts, None, spec.method)
        raise EnsembleUnavailableError(
            f"Too few members of the ensemble {model.name} answered.",
            hint="GET /models says which are loaded.",
        )


class _Members:
    """Members of tabular ensembles, on threads, so that one that hangs holds nobody up."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._pool = ThreadPoolExecutor(_MEMBER_THREADS, "member")
        self._late: Counter[tuple[str, int]] = Counter()

    def find(self, wanted: VersionReference) -> TabularModel:
        """Give a member; raises ModelNotLoadedError."""
        model = self._repository.loaded(wanted.model, wanted.version)
        if not isinstance(model, TabularModel):
            raise ModelNotLoadedError(f"The model {wanted.model} is no tabular model.")
        return model

    async def ask(
        self, member: EnsembleMember, spec: EnsembleSpec, rows: Rows
    ) -> tuple[Status, Scores | None]:
        """Give a member's scores, or why there are none."""
        key = (member.model, member.version)
        if self._late[key] >= _LATE_MAX:
            return "timeout", None
        try:
            model = self.find(member)
        except ModelNotLoadedError:
            return "not_loaded", None
        work = asyncio.get_running_loop().run_in_executor(self._pool, _run, model, rows)
        wait_s = (member.timeout_ms or spec.member_timeout_ms) / 1e3
        await asyncio.wait([work], timeout=min(wait_s, current().remaining_s(wait_s)))
        if not work.done():
            self._late[key] += 1
            work.add_done_callback(lambda done: self._came_back(key, done))
            return "timeout", None
        scores = None if work.exception() else work.result()
        if scores is None or not np.isfinite(scores).all():
            return "failed", None
        return "ok", scores

    def _came_back(self, key: tuple[str, int], done: "asyncio.Future[Scores]") -> None:
        self._late[key] -= 1
        if not done.cancelled():
            done.exception()  # read here, so that it does not count as never retrieved


def is_inline(model: TabularModel, rows: int) -> bool:
    """Say whether so many rows run on the event loop: few, and of a single model."""
    return model.ensemble is None and rows <= INLINE_ROWS_MAX


async def _scores(model: TabularModel, rows: Rows) -> Scores:
    """Run one model; InferenceFailedError when it fails or a score is no number."""
    with _as_service_error(model):
        if len(rows) <= INLINE_ROWS_MAX:
            scores = _run(model, rows)
        else:
            scores = await asyncio.to_thread(_run, model, rows)
    _check_finite(model, scores)
    return scores


@contextmanager
def _as_service_error(model: TabularModel) -> Iterator[None]:
    """Translate whatever the engine raises."""
    try:
        yield
    except Exception as error:
        raise InferenceFailedError(
            f"The model {model.name} could not answer.", hint="The request id leads to the log."
        ) from error


def _check_finite(model: TabularModel, scores: Scores) -> None:
    if not np.isfinite(scores).all():
        raise InferenceFailedError(f"The model {model.name} gave a score that is no number.")


def check_access(model: LoadedModel) -> None:
    """Refuse callers without the scope that a manifest demands in `parameters.scope`.

    Raises:
        ForbiddenError: the caller does not hold it.
    """
    scope = model.manifest.parameters.get("scope")
    caller = current().caller
    if scope and caller is not None and not caller.may(str(scope)):
        raise ForbiddenError(f"The model {model.name} needs the scope {scope}.")


def _run(model: TabularModel, rows: Rows) -> Scores:
    prepared = [model.engine.prepare(rows)]
    scores = model.engine.finish(model.engine.forward(prepared), prepared)[0]
    return model.calibration.apply(scores)
