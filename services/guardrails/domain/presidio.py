"""The Presidio algorithms: merging of anonymizer results and the operators with their rules.

Shapes follow presidio-anonymizer. Deviations: of partly overlapping types the lower score is
trimmed; encrypt is AES-GCM with a version mark.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.guardrails.domain.merge import drop_contained
from services.guardrails.domain.operators import CipherError, mask, seal, unseal
from services.guardrails.domain.verdict import Span

ANONYMIZERS = ("hash", "mask", "redact", "replace", "custom", "keep", "encrypt")
DEANONYMIZERS = ("decrypt", "deanonymize_keep")
SALT_BYTES_MIN = 16


class OperatorError(ValueError):
    """An operator or its parameter is wrong; the text never holds the user's text."""

    def __init__(self, message: str, status: int = 422) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Item:
    """One edit; offsets are in the new text."""

    operator: str
    entity_type: str
    start: int
    end: int
    text: str


def merge(text: str, spans: Sequence[Span]) -> list[Span]:
    """Resolve conflicts as the anonymizer does before operators run; sorted by start."""
    joined = _join_same_type(text, sorted(spans, key=lambda span: (span.start, span.end)))
    kept = drop_contained(_drop_equal_lower(joined))
    return _trim(kept)


def _join_same_type(text: str, spans: Sequence[Span]) -> list[Span]:
    """Join overlapping spans of a type, and neighbours with only spaces between them."""
    result: list[Span] = []
    open_by_type: dict[str, int] = {}
    for span in spans:
        index = open_by_type.get(span.label)
        if index is not None:
            last = result[index]
            between = text[last.end : span.start]
            if span.start <= last.end or between.strip(" ") == "":
                result[index] = Span(
                    last.start, max(last.end, span.end), span.label, max(last.score, span.score)
                )
                continue
        open_by_type[span.label] = len(result)
        result.append(span)
    return result


def _drop_equal_lower(spans: Sequence[Span]) -> list[Span]:
    """Drop a span that a higher-scored one contains; the containing may be the lower-scored."""
    return [
        span for span in spans if not any(o.score > span.score and o.contains(span) for o in spans)
    ]


def _trim(spans: Sequence[Span]) -> list[Span]:
    """Of partly overlapping spans the lower score gives way, so that none share a character."""
    taken: list[Span] = []
    for span in sorted(spans, key=lambda item: (-item.score, item.start)):
        pieces = [(span.start, span.end)]
        for other in taken:
            pieces = [
                piece
                for start, end in pieces
                for piece in ((start, min(end, other.start)), (max(start, other.end), end))
                if piece[0] < piece[1]
            ]
        taken += [Span(start, end, span.label, span.score) for start, end in pieces]
    return sorted(taken, key=lambda span: span.start)


def apply(
    text: str, spans: Sequence[Span], operators: Mapping[str, Mapping[str, Any]]
) -> tuple[str, list[Item]]:
    """Run the operators.

    Args:
        text: the original.
        spans: disjoint, sorted.
        operators: by entity type or `DEFAULT`, each with `type` and parameters.

    Returns:
        The new text, and the items last-first with offsets in the new text.

    Raises:
        OperatorError: an operator is unknown or a parameter is wrong.
    """
    pieces: list[str] = []
    items: list[Item] = []
    position = length = 0
    for span in spans:
        spec = operators.get(span.label) or operators.get("DEFAULT") or {"type": "replace"}
        replacement = operate(spec, span.label, text[span.start : span.end])
        pieces += [text[position : span.start], replacement]
        length += span.start - position
        items.append(
            Item(str(spec["type"]), span.label, length, length + len(replacement), replacement)
        )
        length += len(replacement)
        position = span.end
    return "".join([*pieces, text[position:]]), items[::-1]


def operate(spec: Mapping[str, Any], label: str, text: str) -> str:
    """Run one operator on one span."""
    match spec.get("type"):
        case "replace":
            return _text(spec, "new_value", "") or f"<{label}>"
        case "redact":
            return ""
        case "keep" | "deanonymize_keep":
            return text
        case "mask":
            return _mask(spec, text)
        case "hash":
            return _hash(spec, text)
        case "encrypt":
            return seal(_key(spec), text)
        case "decrypt":
            try:
                return unseal(_key(spec), text)
            except CipherError as error:
                raise OperatorError(f"Invalid input, {error}") from None
        case "custom":
            raise OperatorError("Custom type anonymizer is not supported", 400)
    raise OperatorError("Invalid operator class: unknown type")


def _text(spec: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = spec.get(name, default)
    if value is None:
        raise OperatorError(f"Expected parameter {name}")
    if not isinstance(value, str):
        raise OperatorError(f"Invalid parameter value for {name}. Expecting a text.")
    return value


def _mask(spec: Mapping[str, Any], text: str) -> str:
    char = _text(spec, "masking_char")
    count, from_end = spec.get("chars_to_mask"), spec.get("from_end")
    if len(char) != 1:
        raise OperatorError("Invalid input, masking_char must be a character")
    if isinstance(count, bool) or not isinstance(count, int):
        raise OperatorError("Invalid parameter value for chars_to_mask. Expecting a whole number.")
    if not isinstance(from_end, bool):
        raise OperatorError("Invalid parameter value for from_end. Expecting true or false.")
    return mask(text, char, max(0, count), from_end=from_end)


def _hash(spec: Mapping[str, Any], text: str) -> str:
    kind = _text(spec, "hash_type", "sha256")
    if kind not in {"sha256", "sha512"}:
        raise OperatorError("Invalid parameter value for hash_type. Expecting sha256 or sha512.")
    salt = _text(spec, "salt").encode() if "salt" in spec else os.urandom(SALT_BYTES_MIN)
    if len(salt) < SALT_BYTES_MIN:
        raise OperatorError(f"Invalid parameter value for salt. At least {SALT_BYTES_MIN} bytes.")
    return hashlib.new(kind, text.encode() + salt).hexdigest()


def _key(spec: Mapping[str, Any]) -> bytes:
    key = _text(spec, "key").encode()
    if len(key) not in {16, 24, 32}:
        raise OperatorError("Invalid input, key must be of length 128, 192 or 256 bits")
    return key
