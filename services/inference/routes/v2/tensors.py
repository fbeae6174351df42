"""Tensors on the wire: JSON data and raw little-endian bytes to numpy and back; pure.

Binary layout (Triton's binary tensor data extension): elements row-major without padding; BOOL is
one byte; a BYTES element is its length as u32 and then its bytes.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from services.inference.domain.tensors import DATATYPES, Tensor, bytes_array, decode_tensor
from services.inference.routes.v2.errors import V2BadRequestError

# Elements of one tensor at most: 32 MiB of BOOL; checked before anything is allocated.
ELEMENTS_MAX = 1 << 25
_RANK_MAX = 8
_INTEGER_KINDS = "iu"


def element_count(name: str, shape: Sequence[Any]) -> int:
    """Check a request's shape and give its number of elements.

    Raises:
        V2BadRequestError: not a list of non-negative integers, or too many elements.
    """
    if len(shape) > _RANK_MAX or not all(type(size) is int and size >= 0 for size in shape):
        raise V2BadRequestError(f"input '{name}': shape must be a list of non-negative integers")
    count = int(math.prod(shape))
    if count > ELEMENTS_MAX:
        raise V2BadRequestError(f"input '{name}': more than {ELEMENTS_MAX} elements")
    return count


def from_json(name: str, datatype: str, shape: Sequence[int], data: object) -> Tensor:
    """Read nested or flat JSON data, row-major.

    Raises:
        V2BadRequestError: other element types, a wrong number of elements, null.
    """
    if datatype == "FP16":
        raise V2BadRequestError(f"input '{name}': FP16 data must be sent as binary")
    if not isinstance(data, list):
        raise V2BadRequestError(f"input '{name}': data must be a list")
    flat = _flatten(name, data)
    if len(flat) != math.prod(shape):
        raise V2BadRequestError(
            f"input '{name}': {len(flat)} elements, shape {list(shape)} needs {math.prod(shape)}"
        )
    _check_elements(name, datatype, flat)
    if datatype == "BYTES":
        return bytes_array([_encoded(name, value) for value in flat], shape)
    try:
        return np.array(flat, dtype=DATATYPES[datatype]).reshape(shape)
    except (OverflowError, ValueError):
        raise V2BadRequestError(f"input '{name}': a value does not fit {datatype}") from None


def from_binary(name: str, datatype: str, shape: Sequence[int], raw: memoryview) -> Tensor:
    """Read raw bytes.

    Raises:
        V2BadRequestError: the size is not elements times width, or a BYTES length is wrong.
    """
    try:
        return decode_tensor(datatype, shape, raw)
    except ValueError as error:
        raise V2BadRequestError(f"input '{name}': {error}") from None


def to_json(name: str, datatype: str, value: Tensor) -> list[Any]:
    """Give flat JSON data.

    Raises:
        V2BadRequestError: a number that JSON cannot hold; the caller must ask for binary.
    """
    if datatype == "FP16":
        raise V2BadRequestError(f"output '{name}': FP16 can be given as binary only")
    if datatype == "BYTES":
        try:
            return [element.decode("utf-8") for element in value.ravel()]
        except UnicodeDecodeError:
            raise V2BadRequestError(
                f"output '{name}': not UTF-8; ask for it as binary data"
            ) from None
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise V2BadRequestError(
            f"output '{name}': holds NaN or infinity, which JSON cannot; ask for binary data"
        )
    flat: list[Any] = value.ravel().tolist()
    return flat


def _flatten(name: str, data: list[Any]) -> list[Any]:
    """Flatten nested lists without recursion, nesting bounded."""
    flat = data
    for _ in range(_RANK_MAX):
        if not flat or not isinstance(flat[0], list):
            break
        if not all(isinstance(part, list) for part in flat):
            raise V2BadRequestError(f"input '{name}': lists and values are mixed")
        flat = [element for part in flat for element in part]
        if len(flat) > ELEMENTS_MAX:
            raise V2BadRequestError(f"input '{name}': more than {ELEMENTS_MAX} elements")
    return flat


def _check_elements(name: str, datatype: str, flat: list[Any]) -> None:
    """Refuse what numpy would convert in silence: strings, booleans, fractions, null."""
    kind = "O" if datatype == "BYTES" else DATATYPES[datatype].kind
    allowed: tuple[type, ...] = {"O": (str,), "b": (bool, int), "f": (int, float)}.get(kind, (int,))
    found = set(map(type, flat))
    if not found <= set(allowed):
        raise V2BadRequestError(f"input '{name}': a value is no {datatype}")
    if kind == "b" and not all(value in (0, 1) for value in flat):
        raise V2BadRequestError(f"input '{name}': a value is no BOOL")


def _encoded(name: str, text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise V2BadRequestError(f"input '{name}': a text is not valid UTF-8") from None
