"""The one way to a text model: resolve, look into the cache, run, remember."""

import asyncio
import functools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

from libs.common.context import current
from libs.common.errors import DeadlineExceededError, InvalidInputError
from services.inference.adapters.prediction_cache import PredictionCache
from services.inference.domain.batching import DEFAULT, SHADOW
from services.inference.domain.ensemble import AnyTextModel, TextEnsemble
from services.inference.domain.model import LoadedModel
from services.inference.domain.prediction_cache import (
    HotTexts,
    decode_answer,
    encode_answer,
    prediction_key,
)
from services.inference.domain.text import TextAnswer, TextModel
from services.inference.errors import ModelNotLoadedError
from services.inference.execution.ensemble import EnsembleCall
from services.inference.execution.runner import Outcome, TextRunner
from services.inference.execution.scheduler import SchedulerOptions
from services.inference.metrics import InferenceMetrics

# Longer texts take milliseconds to tokenize each; callers cut them.
CHARACTERS_MAX = 200_000
# Hot texts kept per model, and how long one may be to be kept.
_HOT_TEXTS, _HOT_CHARACTERS_MAX = 256, 1_000
# How many of them run again after a swap, and how long that may take.
_REWARMED, _REWARM_S = 64, 30.0
_DEADLINE_S = 5.0
# Calls that have resolved a version submit to it well within this time.
_LEAVING_S = 2.0
# Statuses after which a follower tries by itself instead of sharing the leader's failure.
_TRANSIENT = frozenset({503, 504})


class Models(Protocol):
    """The part of the repository that is needed here."""

    def serving(self, name: str) -> LoadedModel:
        """Give the version that serves; raises ModelNotLoadedError."""
        ...

    def loaded(self, name: str, version: int) -> LoadedModel:
        """Give one loaded version; raises ModelNotLoadedError."""
        ...


@dataclass(frozen=True, slots=True)
class PlaneOptions:
    """What the settings say; `scheduler_options` makes those of one model."""

    scheduler_options: Callable[[TextModel], SchedulerOptions]
    tokenizer_threads: int = 2


class TextPlane:
    """Answers texts by model; used by all front ends."""

    def __init__(
        self,
        models: Models,
        options: PlaneOptions,
        cache: PredictionCache,
        metrics: InferenceMetrics,
    ) -> None:
        self.cache = cache
        self._models = models
        self._options = options
        self._metrics = metrics
        self._pool = ThreadPoolExecutor(options.tokenizer_threads, "tokenize")
        self._runners: dict[int, TextRunner] = {}
        self._flights: dict[str, asyncio.Future[Outcome | None]] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._hot: dict[str, HotTexts] = {}
        self._seen_versions: dict[str, set[str]] = {}
        self.results: Counter[str] = Counter()

    def runner(self, model: TextModel) -> TextRunner:
        """Give what runs this version; made at first use."""
        found = self._runners.get(id(model))
        if found is None:
            options = self._options.scheduler_options(model)
            found = TextRunner(model, options, self._pool, self._metrics)
            self._runners[id(model)] = found
            # The number may be used again for another object once this one is gone.
            model.closers.append(functools.partial(self._forget, id(model)))
        return found

    def _forget(self, key: int) -> None:
        self._runners.pop(key, None)

    async def predict(
        self,
        model: AnyTextModel,
        texts: Sequence[str],
        *,
        priority: int = DEFAULT,
        partial: bool = False,
        use_cache: bool = True,
    ) -> list[Outcome]:
        """Answer texts in order, from the cache where it can.

        Args:
            model: the resolved version; every text of the call is answered by it, or by the members
                of an ensemble.
            texts: 1 to what the front end allows.
            priority: 1 urgent to 4 shadow.
            partial: a text that fails gives its error in its place instead of raising.
            use_cache: False neither reads nor joins; the answer is stored all the same.

        Raises:
            ServiceError: as `TextRunner.run`.
        """
        for index, text in enumerate(texts):
            if len(text) > CHARACTERS_MAX:
                raise InvalidInputError.field(f"/{index}", f"longer than {CHARACTERS_MAX}")
        deadline_s = current().deadline or time.monotonic() + _DEADLINE_S
        if time.monotonic() >= deadline_s:
            raise DeadlineExceededError("The deadline passed before the model was asked.")
        use_cache = use_cache and self.cache.is_on
        statistics = self._metrics.statistics.of(model.name, model.version)
        started = time.perf_counter()
        try:
            if isinstance(model, TextEnsemble):
                outcomes = await self._ensemble(model, texts, priority, partial, use_cache)
            else:
                self._notice_swap(model)
                call = _Call(self, model, texts, deadline_s, priority, partial)
                outcomes = await call.run(use_cache=use_cache)
        except BaseException:
            statistics.request(items=0, seconds=time.perf_counter() - started, ok=False)
            raise
        good = [one for one in outcomes if isinstance(one, TextAnswer)]
        statistics.request(
            items=len(good),
            seconds=time.perf_counter() - started,
            ok=bool(good),
            cached=sum(one.cached for one in good),
            looked_up=len(good) if use_cache else 0,
            queue_s=max((one.queue_s for one in good), default=0.0),
        )
        return outcomes

    async def _ensemble(
        self,
        ensemble: TextEnsemble,
        texts: Sequence[str],
        priority: int,
        partial: bool,
        use_cache: bool,
    ) -> list[Outcome]:
        """Let the members answer as they answer single calls, and combine."""

        async def ask(model: TextModel, asked: Sequence[str]) -> list[Outcome]:
            return await self.predict(
                model, asked, priority=priority, partial=True, use_cache=use_cache
            )

        call = EnsembleCall(ensemble, self._text_version, ask, self._metrics)
        return await call.run(texts, partial=partial)

    def _text_version(self, name: str, version: int) -> TextModel:
        model = self._models.loaded(name, version)
        if not isinstance(model, TextModel):
            raise ModelNotLoadedError(f"The model {name} takes no texts.")
        return model

    def leaving(self, model: object) -> None:
        """Close what runs a version that the repository takes out of service; on any thread."""
        runner = self._runners.get(id(model))
        if runner is not None:
            runner.close_soon(_LEAVING_S)

    def statistics(self) -> dict[str, Any]:
        """Give the cache's statistics of this process."""
        total = sum(self.results[name] for name in ("hit", "miss", "joined"))
        return {
            **self.cache.statistics(),
            **{name: self.results[name] for name in ("hit", "miss", "joined", "bypass")},
            "hit_ratio": round(self.results["hit"] / total, 4) if total else None,
            "in_flight": len(self._flights),
        }

    async def close(self) -> None:
        """Finish admitted work, then stop all threads."""
        for task in list(self._background):
            task.cancel()
        for runner in list(self._runners.values()):
            await runner.close()
        self._runners.clear()
        self._pool.shutdown(wait=False)

    def count(self, result: str, items: int = 1) -> None:
        """Count cache look-ups."""
        if items:
            self.results[result] += items
            self._metrics.text.cache.labels(result).inc(items)

    def saw(self, tenant: str, model: TextModel, text: str) -> None:
        """Remember that a text was asked for."""
        hot = self._hot.get(model.name)
        if hot is None:
            hot = self._hot[model.name] = HotTexts(_HOT_TEXTS, _HOT_CHARACTERS_MAX)
        hot.saw(tenant, text)

    def later(self, work: Any) -> None:
        """Run a coroutine in the background; its failure is counted by what it does."""
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _notice_swap(self, model: TextModel) -> None:
        """Answer the hot texts with a new version before they are asked for; once per version,
        since a rollout lets two versions answer in turn.
        """
        known = self._seen_versions.setdefault(model.name, set())
        if model.version not in known:
            is_first = not known
            known.add(model.version)
            if not is_first and self.cache.is_on:
                self.later(self._rewarm(model))

    async def _rewarm(self, model: TextModel) -> None:
        hot = self._hot.get(model.name)
        for tenant, text in hot.top(_REWARMED) if hot else ():
            key = prediction_key(tenant, model, text)
            epoch, values = await self.cache.read(tenant, [key])
            if epoch is None or values[0] is not None:
                continue
            outcomes = await self.runner(model).run(
                [text], deadline_s=time.monotonic() + _REWARM_S, priority=SHADOW, partial=True
            )
            if isinstance(outcomes[0], TextAnswer):
                await self.cache.write(tenant, {key: encode_answer(outcomes[0], epoch)})


class _Call:
    """One call of `predict`: which texts hit, which lead, which join."""

    def __init__(
        self,
        plane: TextPlane,
        model: TextModel,
        texts: Sequence[str],
        deadline_s: float,
        priority: int,
        partial: bool,
    ) -> None:
        self._plane = plane
        self._model = model
        self._texts = texts
        self._deadline_s = deadline_s
        self._priority = priority
        self._partial = partial
        caller = current().caller
        self._tenant = caller.tenant if caller else ""

    async def run(self, *, use_cache: bool) -> list[Outcome]:
        """Answer all texts."""
        if not use_cache:
            self._plane.count("bypass", len(self._texts))
            return await self._ask(self._texts)
        keys = [prediction_key(self._tenant, self._model, text) for text in self._texts]
        epoch, values = await self._plane.cache.read(self._tenant, keys)
        if epoch is None:
            self._plane.count("bypass", len(self._texts))
            return await self._ask(self._texts)
        labels = len(self._model.head.labels)
        found: list[Outcome | None] = [decode_answer(value, epoch, labels) for value in values]
        flights = self._plane._flights
        leads: dict[str, int] = {}
        joins: dict[int, asyncio.Future[Outcome | None]] = {}
        for index, key in enumerate(keys):
            self._plane.saw(self._tenant, self._model, self._texts[index])
            if found[index] is None:
                if key in flights:
                    joins[index] = flights[key]
                else:
                    leads[key] = index
                    flights[key] = asyncio.get_running_loop().create_future()
        self._plane.count("hit", len(keys) - len(leads) - len(joins))
        self._plane.count("miss", len(leads))
        self._plane.count("joined", len(joins))
        await self._lead(leads, found, epoch)
        for index, flight in joins.items():
            found[index] = await self._join(index, flight)
        return [outcome for outcome in found if outcome is not None]

    async def _lead(self, leads: dict[str, int], found: list[Outcome | None], epoch: int) -> None:
        """Run what nobody else runs, tell those who joined, and store what is good."""
        if not leads:
            return
        flights = self._plane._flights
        answered: dict[str, Outcome | None] = dict.fromkeys(leads)
        try:
            ran = await self._ask([self._texts[index] for index in leads.values()])
            answered = dict(zip(leads, ran, strict=True))
        finally:
            # A leader that was cancelled or refused leaves None: those who joined try themselves.
            for key, outcome in answered.items():
                flight = flights.pop(key)
                if not flight.done():
                    flight.set_result(outcome)
        for key, index in leads.items():
            found[index] = answered[key]
        good = {
            key: encode_answer(outcome, epoch)
            for key, outcome in answered.items()
            if isinstance(outcome, TextAnswer)
        }
        if good:
            self._plane.later(self._plane.cache.write(self._tenant, good))

    async def _join(self, index: int, flight: "asyncio.Future[Outcome | None]") -> Outcome:
        """Wait for the leader within the own deadline; try alone if it failed for the moment."""
        left = max(0.0, self._deadline_s - time.monotonic())
        await asyncio.wait([flight], timeout=left)
        if not flight.done():
            late = DeadlineExceededError("The deadline passed before the model had answered.")
            if self._partial:
                return late
            raise late
        outcome = flight.result()
        if isinstance(outcome, TextAnswer):
            return replace(outcome, cached=True)
        if outcome is None or outcome.status in _TRANSIENT:
            return (await self._ask([self._texts[index]]))[0]
        if self._partial:
            return outcome
        raise outcome

    async def _ask(self, texts: Sequence[str]) -> list[Outcome]:
        return await self._plane.runner(self._model).run(
            texts, deadline_s=self._deadline_s, priority=self._priority, partial=self._partial
        )
