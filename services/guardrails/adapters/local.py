"""Runs pure detectors: short texts in place, longer ones on a small pool of threads.

RE2 releases the interpreter lock while it matches, so that threads are enough to keep the event
loop free; the pool is bounded, and waiting for it counts against the validator's deadline.
"""

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, Protocol

from services.guardrails.domain.document import Document
from services.guardrails.domain.policy import ValidatorRule
from services.guardrails.domain.verdict import Detection

# Measured in the note: below this a pattern pass costs less than handing it over.
INLINE_BYTES_MAX = 2_048


class Detector(Protocol):
    """A pure validator of one text."""

    @property
    def name(self) -> str:
        """Stable name."""
        ...

    @property
    def kind(self) -> str:
        """What kind of validator."""
        ...

    @property
    def version(self) -> str:
        """Version of the rules."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """What it can report."""
        ...

    @property
    def max_span(self) -> int:
        """Longest finding in characters."""
        ...

    @property
    def lookahead(self) -> int:
        """Characters it must see behind a finding."""
        ...

    def parse(self, params: Mapping[str, Any]) -> Any:
        """Turn a policy's parameters into what `detect` takes; raises ParamsError."""
        ...

    def hold(self, params: Any) -> int:
        """Give the characters that a stream holds back; raises UnboundedError."""
        ...

    def detect(self, document: Document, params: Any) -> Detection:
        """Judge one text."""
        ...


class LocalValidator:
    """A detector as a validator."""

    def __init__(self, detector: Detector, pool: Executor) -> None:
        self.detector = detector
        self._pool = pool
        self.name = detector.name
        self.kind = detector.kind
        self.labels = detector.labels
        self.max_span = detector.max_span
        self.lookahead = detector.lookahead

    @property
    def version(self) -> str:
        """Version of the rules."""
        return self.detector.version

    def parse(self, params: Mapping[str, Any]) -> Any:
        """Check and read the parameters."""
        return self.detector.parse(params)

    def check_now(
        self, documents: Sequence[Document], rule: ValidatorRule
    ) -> list[Detection] | None:
        """Judge texts of at most INLINE_BYTES_MAX together; None for longer ones."""
        if sum(len(document.original.utf8.data) for document in documents) > INLINE_BYTES_MAX:
            return None
        return self._all(documents, self.detector.parse(rule.params))

    async def check(self, documents: Sequence[Document], rule: ValidatorRule) -> list[Detection]:
        """Judge the texts; those over INLINE_BYTES_MAX together, off the event loop."""
        found = self.check_now(documents, rule)
        if found is not None:
            return found
        params = self.detector.parse(rule.params)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, self._all, documents, params)

    def _all(self, documents: Sequence[Document], params: Any) -> list[Detection]:
        return [self.detector.detect(document, params) for document in documents]
