"""From texts to answers for one loaded version: tokenize, schedule every window, pool, decide."""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from concurrent.futures import Executor as Pool

from libs.common.errors import DeadlineExceededError, InvalidInputError, ServiceError
from services.inference.domain.text import Encoding, TextAnswer, TextModel, TextTooLongError
from services.inference.execution.scheduler import Scheduler, SchedulerOptions, WindowResult
from services.inference.metrics import InferenceMetrics

# Up to this many characters are tokenized on the event loop: 60 us at most were measured for them,
# and handing them to a thread and back costs 90 us of the loop's time.
INLINE_CHARACTERS_MAX = 400
# Texts that one task of the tokenizer pool takes at once.
_CHUNK = 32

# How long a version that is taken out of service may still work on what it admitted.
CLOSE_S = 25.0

Outcome = TextAnswer | ServiceError


class TextRunner:
    """Answers texts with one version; starts its executors on first use."""

    def __init__(
        self, model: TextModel, options: SchedulerOptions, pool: Pool, metrics: InferenceMetrics
    ) -> None:
        self.model = model
        self._options = options
        self._pool = pool
        self._metrics = metrics
        self._scheduler: Scheduler | None = None
        self._loop = asyncio.get_running_loop()
        self._is_closing = False
        model.closers.append(self.close_soon)

    @property
    def scheduler(self) -> Scheduler:
        """The version's scheduler, made on the running loop when first asked for."""
        if self._scheduler is None:
            self._scheduler = Scheduler(self.model, self._options, self._metrics)
        return self._scheduler

    async def run(
        self, texts: Sequence[str], *, deadline_s: float, priority: int, partial: bool = False
    ) -> list[Outcome]:
        """Answer texts in order.

        Args:
            texts: any number; bounded by the caller.
            deadline_s: on the monotonic clock.
            priority: 1 urgent to 4 shadow.
            partial: a text that fails gives its error in its place; else the first error is raised,
                and nothing is run unless everything was admitted.

        Raises:
            OverloadedError, DeadlineExceededError, InferenceFailedError, InvalidInputError: see
                `partial`.
        """
        started = time.perf_counter()
        encodings = await self._encode(texts)
        tokenize_s = time.perf_counter() - started
        self._metrics.text.tokenize.labels(self.model.name).observe(tokenize_s)
        depth = self.scheduler.depth
        admitted: list[list[asyncio.Future[WindowResult]] | ServiceError] = []
        try:
            for index, encoding in enumerate(encodings):
                try:
                    if isinstance(encoding, TextTooLongError):
                        raise InvalidInputError.field(f"/{index}", str(encoding))
                    admitted.append(
                        self.scheduler.submit(
                            encoding.windows, deadline_s=deadline_s, priority=priority
                        )
                    )
                except ServiceError as error:
                    if not partial:
                        raise
                    admitted.append(error)
            await self._wait(admitted, deadline_s)
        except BaseException:
            for futures in admitted:
                if isinstance(futures, list):
                    self.scheduler.abandon(futures)
            raise
        outcomes = [
            self._outcome(text, encoding, futures, tokenize_s, depth)
            for text, encoding, futures in zip(texts, encodings, admitted, strict=True)
        ]
        if not partial:
            for outcome in outcomes:
                if isinstance(outcome, ServiceError):
                    raise outcome
        return outcomes

    async def close(self, timeout_s: float = CLOSE_S) -> None:
        """Finish admitted work within the time, then end the threads and free the engine."""
        if self._is_closing:
            return
        self._is_closing = True
        if self._scheduler is not None:
            await self._scheduler.close(timeout_s)
        self.model.engine.close()

    def close_soon(self, delay_s: float = 0.0) -> None:
        """Close from whatever thread takes the version out of service.

        Args:
            delay_s: lets calls that have resolved the version, but not yet submitted, come in.
        """

        def start() -> None:
            self._closing = asyncio.ensure_future(self._close_after(delay_s))

        with contextlib.suppress(RuntimeError):  # the loop is closed, and with it the runner
            self._loop.call_soon_threadsafe(start)

    async def _close_after(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        await self.close()

    async def _encode(self, texts: Sequence[str]) -> list[Encoding | TextTooLongError]:
        if sum(map(len, texts)) <= INLINE_CHARACTERS_MAX:
            return self.model.encoder.encode(texts)
        loop = asyncio.get_running_loop()
        chunks = [texts[start : start + _CHUNK] for start in range(0, len(texts), _CHUNK)]
        parts = await asyncio.gather(
            *(loop.run_in_executor(self._pool, self.model.encoder.encode, part) for part in chunks)
        )
        return [encoding for part in parts for encoding in part]

    @staticmethod
    async def _wait(
        admitted: Sequence["list[asyncio.Future[WindowResult]] | ServiceError"], deadline_s: float
    ) -> None:
        """Wait until all windows are answered or the deadline passes; what is late is cancelled."""
        pending = [
            future for futures in admitted if isinstance(futures, list) for future in futures
        ]
        if not pending:
            return
        left = max(0.0, deadline_s - time.monotonic())
        _, late = await asyncio.wait(pending, timeout=left)
        for future in late:
            future.cancel()
        for future in pending:
            if not future.cancelled():
                future.exception()  # read here, so that none counts as never retrieved

    def _outcome(
        self,
        text: str,
        encoding: Encoding | TextTooLongError,
        futures: "list[asyncio.Future[WindowResult]] | ServiceError",
        tokenize_s: float,
        depth: int,
    ) -> Outcome:
        if isinstance(futures, ServiceError):
            return futures
        assert isinstance(encoding, Encoding)
        results: list[WindowResult] = []
        for future in futures:
            if future.cancelled() or not future.done():
                return DeadlineExceededError("The deadline passed before the model had answered.")
            error = future.exception()
            if error is not None:
                assert isinstance(error, ServiceError), "the scheduler raises service errors only"
                return error
            results.append(future.result())
        reading = self.model.head.read(text, encoding, [item.logits for item in results])
        return TextAnswer(
            label=reading.label,
            confidence=reading.confidence,
            scores=reading.scores,
            spans=reading.spans,
            windows=len(results),
            tokens=encoding.tokens,
            is_truncated=encoding.is_truncated,
            tokenize_s=tokenize_s,
            queue_s=max(item.queue_s for item in results),
            model_s=max(item.model_s for item in results),
            batch_items=results[-1].batch_items,
            depth=depth,
        )
