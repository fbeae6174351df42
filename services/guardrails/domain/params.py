"""Reading of a validator's parameters from a policy."""

from collections.abc import Mapping
from typing import Any

LIST_MAX = 10_000


class ParamsError(ValueError):
    """A validator's parameters are wrong; `pointer` names which, no text holds the value."""

    def __init__(self, pointer: str, message: str) -> None:
        super().__init__(message)
        self.pointer = pointer


def check_names(params: Mapping[str, Any], known: set[str]) -> None:
    """Refuse parameters that the validator does not know.

    Raises:
        ParamsError: names the first unknown one.
    """
    unknown = sorted(set(params) - known)
    if unknown:
        raise ParamsError(f"/{unknown[0]}", "is not a parameter of this validator")


def string_list(params: Mapping[str, Any], name: str) -> tuple[str, ...] | None:
    """Give a list of texts, or None when it is absent.

    Raises:
        ParamsError: it is no list of texts, or too long.
    """
    value = params.get(name)
    if value is None:
        return None
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise ParamsError(f"/{name}", "must be a list of texts")
    if len(value) > LIST_MAX:
        raise ParamsError(f"/{name}", f"may hold at most {LIST_MAX} texts")
    return tuple(value)


def whole_number(params: Mapping[str, Any], name: str, default: int, low: int, high: int) -> int:
    """Give a whole number within bounds, or the default when it is absent.

    Raises:
        ParamsError: it is no whole number or out of bounds.
    """
    value = params.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ParamsError(f"/{name}", f"must be a whole number from {low} to {high}")
    return value
