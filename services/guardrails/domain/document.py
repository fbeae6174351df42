"""One text and its views: the original, and readings of it with a map back to the original.

A view's characters each know the stretch of the original that they came from, so a span found in
any view is reported in original code points.
"""

from dataclasses import dataclass, field
from functools import cached_property

from services.guardrails.domain import normalize
from services.guardrails.domain.text import Utf8
from services.guardrails.domain.verdict import Span


@dataclass(frozen=True)
class View:
    """One reading of a text.

    Attributes:
        kind: `original`, `stripped`, `folded`, `leet`, `joined`, or the decoding that made it.
        utf8: the reading.
        starts / ends: for each character of the reading, the stretch of the original behind it;
            None for the original itself.
    """

    kind: str
    utf8: Utf8
    starts: list[int] | None = field(default=None, repr=False)
    ends: list[int] | None = field(default=None, repr=False)

    def to_original(self, span: Span) -> Span:
        """Give the span in original code points."""
        if self.starts is None or self.ends is None:
            return span
        return Span(
            self.starts[span.start],
            max(self.ends[span.start : span.end]),
            span.label,
            span.score,
            span.rule,
        )


def _view(kind: str, reading: normalize.Reading) -> View:
    return View(kind, Utf8(reading.text), reading.starts, reading.ends)


class Document:
    """A text under check; views are made on first use and shared by all validators."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.original = View("original", Utf8(text))

    @cached_property
    def plain_views(self) -> tuple[View, ...]:
        """The original, and the text without ignorable characters where it has any."""
        if self.original.utf8.is_ascii:
            return (self.original,)
        stripped = normalize.strip(normalize.identity(self.text))
        if stripped.text == self.text:
            return (self.original,)
        return (self.original, _view("stripped", stripped))

    @cached_property
    def decoded_views(self) -> tuple[View, ...]:
        """What base64, hex and percent runs say, to depth two."""
        return tuple(
            _view("decoded", reading)
            for reading in normalize.decoded(normalize.strip(normalize.identity(self.text)))
        )

    @cached_property
    def evasion_views(self) -> tuple[View, ...]:
        """Every reading in which an instruction could hide, each once."""
        base = normalize.strip(normalize.identity(self.text))
        readings = [normalize.fold(base)]
        tags = normalize.tags(self.text)
        decoded = normalize.decoded(base)
        readings += [normalize.fold(reading) for reading in [*tags, *decoded]]
        readings += [normalize.leet(readings[0]), normalize.join_spaced(readings[0])]
        # Two encoded runs may say the same in different places: both are findings.
        unique = {
            (reading.text, reading.starts[0]): reading
            for reading in reversed(readings)
            if reading.text
        }
        return tuple(_view("folded", reading) for reading in reversed(unique.values()))
