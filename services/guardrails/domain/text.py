"""One text with its UTF-8 bytes and a fast way back from byte offsets to code points.

RE2 matches bytes; callers speak code points. ASCII texts need no conversion. Others count the
character starts before an offset, from checkpoints, so that a conversion costs one short scan.
"""

import re
from bisect import bisect_right
from functools import cached_property

_WORD = re.compile(r"[^\W_]+(?:#|-[^\W_]+)?")
_CONTINUATION = bytes(range(0x80, 0xC0))
_STEP = 1024


class Utf8:
    """A text and its bytes."""

    __slots__ = ("__dict__", "data", "is_ascii", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.data = text.encode("utf-8")
        self.is_ascii = len(self.data) == len(text)

    @cached_property
    def _checkpoints(self) -> list[int]:
        counts = [0]
        for start in range(0, len(self.data), _STEP):
            chunk = self.data[start : start + _STEP]
            counts.append(counts[-1] + len(chunk.translate(None, _CONTINUATION)))
        return counts

    def char_at(self, offset: int) -> int:
        """Turn a byte offset, 0 to the number of bytes, into a code-point offset."""
        if self.is_ascii:
            return offset
        step = offset // _STEP
        tail = self.data[step * _STEP : offset]
        return self._checkpoints[step] + len(tail.translate(None, _CONTINUATION))

    @cached_property
    def words(self) -> "Words":
        """Its words, found once for all rules that look at context."""
        return Words(self.text)


class Words:
    """The words of a text in lower case, by position."""

    def __init__(self, text: str) -> None:
        found = [(match.end(), match[0]) for match in _WORD.finditer(text.lower())]
        # A few letters change their length in lower case; positions are then taken unchanged.
        if len(text.lower()) != len(text):
            found = [(match.end(), match[0].lower()) for match in _WORD.finditer(text)]
        self._ends = [end for end, _ in found]
        self._words = [word for _, word in found]
        self.all = frozenset(self._words)

    def before(self, position: int, count: int, chars: int) -> list[str]:
        """Give the last `count` words that end at or before a position, nearest first.

        Args:
            position: code points.
            count: words at most.
            chars: words that end further before the position do not count.
        """
        last = bisect_right(self._ends, position)
        found = []
        for index in range(last - 1, max(-1, last - count - 1), -1):
            if position - self._ends[index] > chars:
                break
            found.append(self._words[index])
        return found
