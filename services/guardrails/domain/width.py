"""How long a match of an expression can be: what a stream must hold back for it.

Reads the syntax that RE2 shares with everybody: classes, escapes, groups, alternation, repetition.
"""

import re

_REPEAT = re.compile(r"\{(\d+)(,(\d*))?\}")
_GROUP = re.compile(r"\(\?(?:P?<\w+>|[a-zA-Z-]*:)|\((?!\?)")
_FLAGS = re.compile(r"\(\?[a-zA-Z-]+\)")
_CLASS = re.compile(r"\[\^?\]?(?:\\.|\[:\^?\w+:\]|[^\]\\])*\]", re.DOTALL)
_ESCAPE = re.compile(
    r"\\(?:[pP](?:\{\^?\w+\}|\w)|x(?:\{[0-9a-fA-F]+\}|[0-9a-fA-F]{2})|[0-7]{1,3}|.)", re.DOTALL
)
_NO_WIDTH = frozenset({"\\b", "\\B", "\\A", "\\z", "^", "$"})


def longest_match(pattern: str) -> int | None:
    """Give the most characters that a match can have; None without a bound or when unsure."""
    reader = _Reader(pattern)
    width = reader.alternatives()
    return width if reader.at == len(pattern) else None


class _Reader:
    """A recursive descent over one expression; a width of None is endless."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self.at = 0

    def alternatives(self) -> int | None:
        """Read alternatives up to the end of the group."""
        widths = [self._sequence()]
        while self._pattern.startswith("|", self.at):
            self.at += 1
            widths.append(self._sequence())
        known = [width for width in widths if width is not None]
        return max(known) if len(known) == len(widths) else None

    def _sequence(self) -> int | None:
        total: int | None = 0
        while self.at < len(self._pattern) and self._pattern[self.at] not in "|)":
            width = self._repeated(self._atom())
            total = None if total is None or width is None else total + width
        return total

    def _atom(self) -> int | None:
        if flags := _FLAGS.match(self._pattern, self.at):
            self.at = flags.end()
            return 0
        if group := _GROUP.match(self._pattern, self.at):
            self.at = group.end()
            width = self.alternatives()
            if not self._pattern.startswith(")", self.at):
                return None
            self.at += 1
            return width
        for token in (_CLASS, _ESCAPE):
            if found := token.match(self._pattern, self.at):
                self.at = found.end()
                if found[0] == "\\Q":
                    self.at = len(self._pattern) + 1
                    return None
                return 0 if found[0] in _NO_WIDTH else 1
        char = self._pattern[self.at]
        self.at += 1
        return 0 if char in _NO_WIDTH else 1

    def _repeated(self, width: int | None) -> int | None:
        while self.at < len(self._pattern):
            char = self._pattern[self.at]
            counted = _REPEAT.match(self._pattern, self.at)
            if char in "*+":
                self.at += 1
                width = 0 if width == 0 else None
            elif char == "?":
                self.at += 1
            elif counted:
                self.at = counted.end()
                top = counted[1] if counted[2] is None else counted[3]
                times = int(top) if top else None
                if width != 0:
                    width = None if width is None or times is None else width * times
            else:
                break
        return width
