"""One thread that runs forwards of one engine, and says so when it dies.

An exception of the engine belongs to the batch. Anything else that leaves the loop - a defect of
ours, SystemExit out of a native library - ends the thread; the scheduler then fails what it held
and starts another. Results go back to the event loop; replies never run on this thread.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

EntryT = TypeVar("EntryT")


class Loop(Protocol):
    """The part of an event loop that another thread may use."""

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any) -> Any:
        """Run a callback on the loop."""
        ...


@dataclass(slots=True, eq=False)
class Job(Generic[EntryT]):
    """One batch on its way: what it holds, its collated form, and afterwards how it went.

    Attributes:
        predicted_s: what the cost model says it takes.
        collate_s: how long padding took.
        started_s / seconds: when the forward began (0 before), and how long it took.
    """

    entries: list[EntryT]
    batch: Any
    padded_length: int
    predicted_s: float
    collate_s: float = 0.0
    started_s: float = 0.0
    seconds: float = 0.0
    raw: Any = None
    error: Exception | None = None


class Executor(Generic[EntryT]):
    """A mailbox and the thread that empties it, first come first served."""

    def __init__(
        self,
        name: str,
        forward: Callable[[Any], Any],
        loop: Loop,
        on_done: Callable[["Executor[EntryT]", Job[EntryT]], None],
        on_dead: Callable[["Executor[EntryT]"], None],
    ) -> None:
        self.jobs: list[Job[EntryT]] = []
        self.is_alive = True
        self.death: BaseException | None = None
        self._forward = forward
        self._loop = loop
        self._on_done = on_done
        self._on_dead = on_dead
        self._mailbox: SimpleQueue[Job[EntryT] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, job: Job[EntryT]) -> None:
        """Queue a job; called on the event loop only, as everything but the thread itself."""
        self.jobs.append(job)
        self._mailbox.put(job)

    def busy_s(self, now: float) -> float:
        """Predict how long the jobs at hand still take.

        One that is overdue is expected to need as long again as it is late, so that callers are
        turned away from an executor that hangs.
        """
        total = 0.0
        for job in self.jobs:
            left = job.predicted_s
            if job.started_s:
                left = abs(job.predicted_s - (now - job.started_s))
            total += left
        return total

    def stop(self) -> None:
        """Let the thread end after the jobs it has."""
        self._mailbox.put(None)

    def join(self, timeout_s: float) -> None:
        """Wait for the thread."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            while (job := self._mailbox.get()) is not None:
                self._handle(job)
        except BaseException as error:  # whatever it is, somebody must hear of it
            self.death = error
            self._post(self._on_dead, self)

    def _handle(self, job: Job[EntryT]) -> None:
        job.started_s = time.monotonic()
        started = time.perf_counter()
        try:
            job.raw = self._forward(job.batch)
        except Exception as error:
            job.error = error
        job.seconds = time.perf_counter() - started
        self._post(self._on_done, self, job)

    def _post(self, callback: Callable[..., object], *args: Any) -> None:
        # A closed loop refuses: then nobody waits any more.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback, *args)
