"""Linear-time patterns: google-re2 for every expression, above all those that clients send.

RE2 has no look-around and no back-references; a rule captures its core in the group `core` (or
matches it whole), and neighbours are checked in code. A `PatternSet` scans a text once and says
which of its expressions can match, so that only those are searched for positions.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import re2

from services.guardrails.domain.text import Utf8

# An expression that needs more is refused; a bomb such as (a{1,1000}){1,1000} ends here.
_PATTERN_MEMORY_BYTES = 8 << 20
_SET_MEMORY_BYTES = 64 << 20
# Longest expression a client may send.
PATTERN_CHARS_MAX = 2_000


class PatternError(ValueError):
    """The expression is not one that RE2 can run in linear time; the text names no input."""


def _options(memory: int) -> re2.Options:
    options = re2.Options()
    options.max_mem = memory
    options.log_errors = False
    return options


class Pattern:
    """One compiled expression."""

    def __init__(self, source: str) -> None:
        """Compile.

        Raises:
            PatternError: syntax that RE2 does not know, too long, or too large.
        """
        if len(source) > PATTERN_CHARS_MAX:
            raise PatternError(f"the expression is longer than {PATTERN_CHARS_MAX} characters")
        try:
            self._regexp = re2.compile(source, _options(_PATTERN_MEMORY_BYTES))
        except (re2.error, UnicodeEncodeError):
            raise PatternError(
                "the expression is not valid RE2 (no look-around, no back-references) or too large"
            ) from None
        self.source = source
        self._group = self._regexp.groupindex.get("core", 0)

    def find(
        self, utf8: Utf8, fit: Callable[[str], Iterable[tuple[int, int]]] | None = None
    ) -> Iterator[tuple[int, int]]:
        """Give the non-empty matches of the core, left to right, as code-point offsets.

        Args:
            utf8: the text.
            fit: gives the stretches of a match that count, relative to its start.
        """
        for match in self._regexp.finditer(utf8.data):
            start, end = match.span(self._group)
            if not 0 <= start < end:
                continue
            first = utf8.char_at(start)
            if fit is None:
                yield first, utf8.char_at(end)
            else:
                for low, high in fit(utf8.data[start:end].decode()):
                    yield first + low, first + high

    def fullmatch(self, text: str) -> bool:
        """Say whether the whole text matches."""
        return self._regexp.fullmatch(text.encode()) is not None

    def search(self, text: str) -> bool:
        """Say whether the text holds a match."""
        return self._regexp.search(text.encode()) is not None


class PatternSet:
    """Many expressions, scanned together."""

    def __init__(self, sources: Sequence[str]) -> None:
        """Compile.

        Raises:
            PatternError: together they are too large for one scan.
        """
        self._set = re2.Set.SearchSet(_options(_SET_MEMORY_BYTES))
        for source in sources:
            self._set.Add(source)
        if self._set.Compile() is False:
            raise PatternError("the expressions are together too large for one scan")

    def candidates(self, utf8: Utf8) -> list[int]:
        """Give the positions of the expressions that match somewhere, ascending."""
        # The binding gives None, not an empty list, when nothing matches.
        return sorted(self._set.Match(utf8.data) or ())
