"""The hold-back rule: what of a growing text may leave, so that no finding is cut.

    buffer = Holdback(judge, edit, hold=256)
    for chunk in chunks: released = buffer.push(chunk)
    rest = buffer.finish()

A finding shorter than `hold` is certain once `hold` visible characters stand behind its start;
forms without a bound (URLs, tokens, keys in armour) hold from their start until they end, up to a
cap, then block. Characters that no validator sees (zero-width, tags) do not count as visible, so
nobody can push a finding through the hold by padding it.
The outcome depends on the text alone, never on how it was cut into chunks: the released text equals
the one-shot edit of the whole, because the whole is judged over the same characters.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.guardrails.domain.merge import apply_edits, disjoint
from services.guardrails.domain.normalize import count_ignorable
from services.guardrails.domain.verdict import Action, Span

HOLD_CHARS = 256
# Least characters kept to the left of what was released: context words and neighbours of a match.
CONTEXT_CHARS = 512
# Longest unbounded form that is waited for.
OPEN_CHARS_MAX = 16_384

_ARMOUR = re.compile(r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_ARMOUR_END = re.compile(r"-----END [A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_SPACE = re.compile(r"\s")


@dataclass(frozen=True)
class Judged:
    """What is known about a stretch of text: spans to mask, spans to report, a block."""

    masked: tuple[Span, ...]
    action: Action


@dataclass(frozen=True)
class Release:
    """Text that may leave; offsets are of the original, in code points."""

    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Blocked:
    """The stream ends here; nothing of the rest leaves."""

    reason: str


class Judge(Protocol):
    """Judges a stretch of a stream."""

    def __call__(self, text: str, total: int, ended: bool) -> Judged:
        """Judge.

        Args:
            text: the stretch; offsets of the answer are relative to it.
            total: characters of the stream so far.
            ended: nothing follows.
        """
        ...


class Holdback:
    """One stream's buffer; not shared between connections."""

    def __init__(
        self,
        judge: Judge,
        edit: Callable[[Span, str], str],
        *,
        hold: int = HOLD_CHARS,
    ) -> None:
        """Start an empty stream.

        Args:
            judge: judges a stretch.
            edit: gives the replacement of a masked span.
            hold: longest bounded finding with its look-ahead, in characters.
        """
        self._judge = judge
        self._edit = edit
        self._hold = hold
        self._context = max(CONTEXT_CHARS, 2 * hold)
        self.kept = ""
        self._offset = 0
        self._released = 0
        self._blocked = False

    @property
    def total(self) -> int:
        """Characters received."""
        return self._offset + len(self.kept)

    def push(self, chunk: str) -> Release | Blocked | None:
        """Take a chunk; give what became safe, if anything.

        Raises:
            ValueError: the stream has ended.
        """
        if self._blocked:
            raise ValueError("the stream was blocked")
        self.kept += chunk
        return self._advance(self.total - self._held(), ended=False)

    def finish(self) -> Release | Blocked | None:
        """End the stream; give the rest."""
        return self._advance(self.total, ended=True)

    @property
    def released(self) -> int:
        """Characters that left."""
        return self._released

    def _held(self) -> int:
        """Give how many characters at the end hold `hold` visible ones."""
        size = self._hold
        while size < len(self.kept):
            missing = self._hold - size + count_ignorable(self.kept[-size:])
            if missing <= 0:
                break
            size += missing
        return min(size, len(self.kept))

    def _advance(self, limit: int, *, ended: bool) -> Release | Blocked | None:
        if not ended:
            limit = self._before_open_form(limit)
            if self.total - limit > OPEN_CHARS_MAX + self._hold:
                return self._block("a form without an end is longer than the cap")
        if limit <= self._released and not ended:
            return None
        judged = self._judge(self.kept, self.total, ended)
        if judged.action is Action.BLOCK:
            return self._block("the policy blocks this text")
        spans = disjoint(judged.masked)
        safe = self._settle(limit - self._offset, spans)
        start = self._released - self._offset
        if safe <= start:
            return None
        ready = [self._moved(span, start) for span in spans if start <= span.start < safe]
        release = Release(
            self._released,
            self._offset + safe,
            apply_edits(self.kept[start:safe], ready, self._edit),
        )
        self._released = release.end
        self._forget()
        return release

    def _before_open_form(self, limit: int) -> int:
        """Move the limit before a form whose end has not been seen: a word, or key armour."""
        position = min(max(limit - self._offset, 0), len(self.kept))
        start = self._released - self._offset
        while position > start and not _SPACE.match(self.kept, position - 1):
            position -= 1
        for opened in _ARMOUR.finditer(self.kept, start):
            if not _ARMOUR_END.search(self.kept, opened.end()):
                position = min(position, opened.start())
                break
        return self._offset + max(position, start)

    @staticmethod
    def _settle(safe: int, spans: Sequence[Span]) -> int:
        """Move the border before every span that it would cut; spans are disjoint and sorted."""
        for span in reversed(spans):
            if span.start < safe < span.end:
                safe = span.start
        return safe

    @staticmethod
    def _moved(span: Span, by: int) -> Span:
        return Span(span.start - by, span.end - by, span.label, span.score, span.rule)

    def _forget(self) -> None:
        """Drop what is neither held nor context, at the start of a word."""
        surplus = self._released - self._offset - self._context
        while surplus > 0 and not _SPACE.match(self.kept, surplus - 1):
            surplus -= 1
        if surplus > 0:
            self.kept = self.kept[surplus:]
            self._offset += surplus

    def _block(self, reason: str) -> Blocked:
        self._blocked = True
        return Blocked(reason)
