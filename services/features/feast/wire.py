"""Feast's requests and answers as they travel; parsing is strict and names the member. Pure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson

from services.features.domain.vectors import Stamp
from services.features.errors import FeastRequestError

EPOCH = "1970-01-01T00:00:00Z"
ROWS_MAX = 10_000
_AHEAD_US = 5 * 60 * 1_000_000


class NotJsonError(FeastRequestError):
    """The body cannot be read."""

    status = 400


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """`POST /get-online-features`; exactly one of `features` and `feature_service` is given."""

    entities: Mapping[str, list[Any]]
    rows: int
    features: list[str] | None
    feature_service: str | None
    full_feature_names: bool
    with_versions: bool


def refuse(pointer: str, reason: str) -> FeastRequestError:
    """Build the error for one member."""
    errors = [{"pointer": pointer, "message": reason}]
    return FeastRequestError(f"{pointer or 'the body'}: {reason}", errors=errors)


def parse(body: bytes) -> dict[str, Any]:
    """Read a JSON object, whatever its content type; NaN is what pandas sends for missing."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            raise NotJsonError("The body is not valid JSON.") from None
    if not isinstance(document, dict):
        raise refuse("", "must be an object")
    return document


def read_request(body: bytes) -> ReadRequest:
    """Parse a read."""
    document = parse(body)
    known = {
        "entities",
        "features",
        "feature_service",
        "full_feature_names",
        "include_feature_view_version_metadata",
    }
    only(document, known)
    entities = _columns(document, "entities")
    rows = _height(entities, "entities")
    features = document.get("features")
    service = document.get("feature_service")
    if service is not None and not isinstance(service, str):
        raise refuse("/feature_service", "must be text")
    if service is None:
        if not isinstance(features, list) or not features:
            raise refuse("/features", "must name at least one feature, or use feature_service")
        if set(map(type, features)) != {str}:
            index = next(i for i, name in enumerate(features) if type(name) is not str)
            raise refuse(f"/features/{index}", "must be view:feature")
    return ReadRequest(
        entities,
        rows,
        features if service is None else None,
        service,
        _flag(document, "full_feature_names"),
        _flag(document, "include_feature_view_version_metadata"),
    )


def frame(document: Mapping[str, Any]) -> tuple[Mapping[str, list[Any]], int]:
    """Take the columns of a push and their height."""
    columns = _columns(document, "df")
    return columns, _height(columns, "df")


def text(document: Mapping[str, Any], name: str) -> str:
    """Take a text member."""
    value = document.get(name)
    if not isinstance(value, str) or not value:
        raise refuse(f"/{name}", "must be text")
    return value


def only(document: Mapping[str, Any], known: set[str]) -> None:
    """Refuse members that the protocol does not know."""
    unknown = sorted(set(document) - known)
    if unknown:
        raise refuse("/" + unknown[0][:64], "is not known here")


def _columns(document: Mapping[str, Any], name: str) -> Mapping[str, list[Any]]:
    columns = document.get(name)
    if not isinstance(columns, dict) or not columns:
        raise refuse(f"/{name}", "must be an object of columns")
    for key, values in columns.items():
        if not isinstance(values, list):
            raise refuse(f"/{name}/{key[:64]}", "must be a list")
    return columns


def _height(columns: Mapping[str, Sequence[Any]], name: str) -> int:
    heights = {len(values) for values in columns.values()}
    if len(heights) > 1:
        raise refuse(f"/{name}", "has columns of different lengths")
    height = heights.pop()
    if not 1 <= height <= ROWS_MAX:
        raise refuse(f"/{name}", f"must have 1 to {ROWS_MAX} rows")
    return height


def _flag(document: Mapping[str, Any], name: str) -> bool:
    value = document.get(name, False)
    if not isinstance(value, bool):
        raise refuse(f"/{name}", "must be a boolean")
    return value


def join_value(value: Any, name: str, row: int, member: str = "entities") -> str:
    """Turn a join key's value into the text it is stored under; 7 and "7" are one entity."""
    kind = type(value)
    if (kind is not str and kind is not int) or value == "":
        raise refuse(f"/{member}/{name}/{row}", "must be text or a whole number")
    found = str(value)
    if len(found) > 256:
        raise refuse(f"/{member}/{name}/{row}", "exceeds 256 characters")
    return found


def timestamp(value: Any, pointer: str, now_us: int) -> Stamp:
    """Parse ISO 8601; a naive time is UTC."""
    if not isinstance(value, str):
        raise refuse(pointer, "must be an ISO 8601 time")
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise refuse(pointer, "must be an ISO 8601 time") from None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    microseconds = int((moment - _ZERO).total_seconds()) * 1_000_000 + moment.microsecond
    if microseconds <= 0:
        raise refuse(pointer, "lies before 1970")
    if microseconds > now_us + _AHEAD_US:
        raise refuse(pointer, "lies more than five minutes in the future")
    milliseconds, sub_us = divmod(microseconds, 1000)
    return Stamp(milliseconds, sub_us)


_ZERO = datetime(1970, 1, 1, tzinfo=UTC)


@lru_cache(maxsize=4096)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def rfc3339(stamp: Stamp) -> str:
    """Give the shortest exact time with 0, 3 or 6 fraction digits."""
    seconds, milliseconds = divmod(stamp.event_ms, 1000)
    whole = _second(seconds)
    if stamp.sub_us:
        return f"{whole}.{milliseconds:03d}{stamp.sub_us:03d}Z"
    return f"{whole}.{milliseconds:03d}Z" if milliseconds else f"{whole}Z"
