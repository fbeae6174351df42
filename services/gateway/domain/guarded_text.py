"""The user texts of a request body: found by JSON pointers, replaced in place.

What is checked must be what the service reads, so a body that two parsers could read differently
is refused: not UTF-8, a member named twice, a lone surrogate, NaN. The text of a binary tensor
(Open Inference Protocol) cannot be read here at all and is refused for guarded tenants.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from libs.common.errors import BadRequestError, InvalidInputError

# Tensors of a V2 request; every other protocol declares its pointers in the catalogue.
V2_POINTERS = ("/inputs/*/data",)
_BINARY_TYPES = frozenset({"BYTES", "STRING"})


@dataclass(frozen=True, slots=True)
class Found:
    """One text: where it is, as a pointer for people, and the container and key that hold it."""

    pointer: str
    holder: Any
    key: str | int
    text: str


def parse(body: bytes) -> Any:
    """Parse a body strictly.

    Raises:
        BadRequestError: not UTF-8, not JSON, a member named twice, too deep.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequestError("The body is not UTF-8.") from None
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise BadRequestError("The body is not valid JSON.", hint="Send a JSON object.") from None


def find(document: Any, pointers: Iterable[str]) -> list[Found]:
    """Find every text at or below the pointers.

    Raises:
        InvalidInputError: a text holds a lone surrogate.
    """
    found: list[Found] = []
    for pointer in pointers:
        parts = pointer.strip("/").split("/")
        _walk(document, parts, "", found)
    return found


def replace(found: Sequence[Found], texts: Sequence[str], document: Any) -> bytes:
    """Put new texts in place of those found and give the body to send."""
    for item, text in zip(found, texts, strict=True):
        item.holder[item.key] = text
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def binary_text_tensor(body: bytes, header_length: str) -> bool:
    """Say whether a V2 body with a binary part carries text in it.

    Raises:
        BadRequestError: the JSON part cannot be read.
    """
    if not header_length.isdigit() or int(header_length) > len(body):
        raise BadRequestError("Inference-Header-Content-Length does not fit the body.")
    document = parse(body[: int(header_length)])
    inputs = document.get("inputs") if isinstance(document, dict) else None
    return any(
        not isinstance(tensor, dict)
        or str(tensor.get("datatype", "BYTES")).upper() in _BINARY_TYPES
        for tensor in (inputs if isinstance(inputs, list) else [None])
    )


def _walk(node: Any, parts: Sequence[str], at: str, found: list[Found]) -> None:
    if not parts:
        return
    head, rest = parts[0], parts[1:]
    if head == "*" and isinstance(node, list):
        keys: Iterable[str | int] = range(len(node))
    elif isinstance(node, dict):
        # A star also names the members of an object: named inputs instead of a list of them.
        keys = list(node) if head == "*" else [head] if head in node else []
    else:
        return
    for key in keys:
        if rest:
            _walk(node[key], rest, f"{at}/{key}", found)
        else:
            _collect(node, key, f"{at}/{key}", found)


def _collect(holder: Any, key: str | int, at: str, found: list[Found]) -> None:
    value = holder[key]
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidInputError.field(at, "holds a lone surrogate") from None
        found.append(Found(at, holder, key, value))
    elif isinstance(value, list):
        for index in range(len(value)):
            _collect(value, index, f"{at}/{index}", found)
    elif isinstance(value, dict):
        for name in value:
            _collect(value, name, f"{at}/{name}", found)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a member is named twice")
    return document


def _no_constant(_: str) -> Any:
    raise ValueError("NaN and Infinity are not JSON")
