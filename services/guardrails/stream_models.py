"""The model stage of a stream: no window passes before the models have judged it.

It stands before the hold-back buffer. Windows are sentences, cut by the text alone, so the verdicts
do not depend on the chunks; what is not yet a whole sentence waits.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from services.guardrails.domain.sentences import windows
from services.guardrails.domain.verdict import Action, Verdict

Check = Callable[[Sequence[str]], Awaitable[list[tuple[Verdict, ...]]]]


@dataclass(frozen=True)
class Passed:
    """Text that the models let through, and whether they block what follows."""

    text: str
    verdicts: tuple[tuple[int, Verdict], ...]  # each with where its window starts in the stream
    is_blocked: bool


class ModelGate:
    """One stream's windows; not shared between connections."""

    def __init__(self, check: Check) -> None:
        """Start empty.

        Args:
            check: judges windows with the policy's models, one row of verdicts each.
        """
        self._check = check
        self._waiting = ""
        self._passed = 0

    @property
    def waiting(self) -> int:
        """Characters that no model has judged yet."""
        return len(self._waiting)

    async def push(self, chunk: str, *, ended: bool) -> Passed:
        """Take a chunk; give the windows that are complete and allowed, up to a blocked one."""
        self._waiting += chunk
        borders = windows(self._waiting, ended=ended)
        if not borders:
            return Passed("", (), False)
        rows = await self._check([self._waiting[start:end] for start, end in borders])
        found: list[tuple[int, Verdict]] = []
        for (start, _), verdicts in zip(borders, rows, strict=True):
            found += [(self._passed + start, verdict) for verdict in verdicts]
            if any(verdict.action is Action.BLOCK for verdict in verdicts):
                return Passed(self._waiting[:start], tuple(found), True)
        done = borders[-1][1]
        text, self._waiting = self._waiting[:done], self._waiting[done:]
        self._passed += done
        return Passed(text, tuple(found), False)
