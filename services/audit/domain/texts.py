"""Words inside of an event: found, masked where a person is named, and put back."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from libs.common.events.registry import EVENT_TYPES
from services.audit.domain.events import Accepted, accept

WITHHELD = "withheld"


@dataclass(frozen=True, slots=True)
class Finding:
    """A stretch of a text that names somebody; code points, end exclusive."""

    start: int
    end: int
    label: str


def texts_of(event: Accepted) -> set[str]:
    """Give every string in the members that the registry marks as text."""
    return {text for _, value in _members(event) for text in _strings(value)}


def with_texts(event: Accepted, masked: Mapping[str, str]) -> Accepted:
    """Give the event with its texts replaced; what `masked` lacks is withheld.

    Raises:
        TypeError: the event is no longer acceptable, which masking cannot cause.
    """
    members = {name: _replaced(value, masked) for name, value in _members(event)}
    if not members:
        return event
    document = {**event.document, "data": {**event.document["data"], **members}}
    changed = accept(document, event.source)
    if not isinstance(changed, Accepted):
        raise TypeError(changed)
    return changed


def mask(text: str, findings: Sequence[Finding]) -> str:
    """Give the text with each finding as `<LABEL>`; of overlapping ones the first and longest."""
    parts, at = [], 0
    for found in sorted(findings, key=lambda item: (item.start, -item.end)):
        if found.start >= at:
            parts += [text[at : found.start], f"<{found.label}>"]
        at = max(at, found.end)
    return "".join(parts) + text[at:]


def _members(event: Accepted) -> list[tuple[str, Any]]:
    marked = EVENT_TYPES[event.type].text
    return [(name, value) for name, value in event.document["data"].items() if name in marked]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _replaced(value: Any, masked: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return masked.get(value, WITHHELD) if value else value
    if isinstance(value, Mapping):
        return {name: _replaced(item, masked) for name, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item, masked) for item in value]
    return value
