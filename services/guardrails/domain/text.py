"""One text with its UTF-8 bytes and a fast way back from byte offsets to code points.

RE2 matches bytes; callers speak code points. ASCII texts need no conversion. Others count the
character starts before an offset, from checkpoints, so that a conversion costs one short scan.
"""

from functools import cached_property

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
