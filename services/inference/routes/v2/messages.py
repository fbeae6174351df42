"""Infer requests and responses: JSON header, binary parts, compression; pure.

`Inference-Header-Content-Length` counts the JSON of the uncompressed body; 0 means that the body is
the single raw input. Everything is bounded before it is allocated.
"""

import gzip
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from libs.common.errors import PayloadTooLargeError
from services.inference.domain.tensors import DATATYPES, Tensor, bytes_array, encode_tensor
from services.inference.routes.v2.errors import V2BadRequestError
from services.inference.routes.v2.tensors import (
    element_count,
    from_binary,
    from_json,
    to_json,
)

HEADER_LENGTH = "inference-header-content-length"
# The catalogue's body cap, and what a compressed body may grow to.
BODY_BYTES_MAX = 32 << 20
_TENSORS_MAX = 64


@dataclass(frozen=True, slots=True)
class Input:
    """One decoded input."""

    name: str
    datatype: str
    value: Tensor


@dataclass(frozen=True, slots=True)
class Wanted:
    """One requested output.

    Attributes:
        is_binary: send it as binary.
        classes: top-k classes instead of the values; 0 for the values.
    """

    name: str
    is_binary: bool = False
    classes: int = 0


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A decoded request; `wanted` empty asks for all outputs.

    Attributes:
        raw: the body is the single raw input (header length 0); the model's metadata is needed.
        all_binary: how outputs that are not named one by one are sent.
    """

    inputs: dict[str, Input]
    wanted: tuple[Wanted, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    id: str | None = None
    all_binary: bool = False
    raw: memoryview | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """One output to send."""

    name: str
    datatype: str
    value: Tensor


def decompress(body: bytes, encoding: str) -> bytes:
    """Undo `Content-Encoding`, never making more than the body cap.

    Raises:
        V2BadRequestError: another encoding, or broken data.
        PayloadTooLargeError: the content is larger than a plain body may be.
    """
    name = encoding.strip().lower()
    if name in {"", "identity"}:
        return body
    if name not in {"gzip", "deflate"}:
        raise V2BadRequestError("Content-Encoding is gzip, deflate or identity")
    machine = zlib.decompressobj(16 + zlib.MAX_WBITS if name == "gzip" else zlib.MAX_WBITS)
    try:
        plain = machine.decompress(body, BODY_BYTES_MAX)
    except zlib.error:
        raise V2BadRequestError("the compressed body cannot be read") from None
    if machine.unconsumed_tail:
        raise PayloadTooLargeError(f"The content is larger than {BODY_BYTES_MAX} bytes.")
    if not machine.eof:
        raise V2BadRequestError("the compressed body ends too early")
    return plain


def compress(body: bytes, accepted: str) -> tuple[bytes, str | None]:
    """Compress with what the caller accepts; gives the body and its encoding, if any."""
    names = {part.partition(";")[0].strip().lower() for part in accepted.split(",")}
    if "gzip" in names:
        return gzip.compress(body, compresslevel=1, mtime=0), "gzip"
    if "deflate" in names:
        return zlib.compress(body, level=1), "deflate"
    return body, None


def decode_request(body: bytes, header_length: str | None) -> InferRequest:
    """Read an infer request.

    Args:
        body: decompressed.
        header_length: the header's value, None when absent.

    Raises:
        V2BadRequestError: anything that does not fit; the text says what.
    """
    view = memoryview(body)
    if header_length is None:
        json_size = len(body)
    else:
        if not header_length.isdigit() or int(header_length) > len(body):
            raise V2BadRequestError(
                "Inference-Header-Content-Length is no number or larger than the body"
            )
        json_size = int(header_length)
        if json_size == 0:
            return InferRequest({}, all_binary=True, raw=view)
    try:
        document = orjson.loads(view[:json_size])
    except orjson.JSONDecodeError:
        raise V2BadRequestError("failed to parse the request JSON") from None
    if not isinstance(document, dict):
        raise V2BadRequestError("the request must be a JSON object")
    parameters = _object(document, "parameters")
    inputs = _inputs(document, view[json_size:])
    all_binary = _flag(parameters, "binary_data_output", "the request")
    identifier = document.get("id")
    if identifier is not None and not isinstance(identifier, str):
        raise V2BadRequestError("id must be a string")
    wanted = _wanted(document, all_binary=all_binary)
    return InferRequest(inputs, wanted, parameters, identifier, all_binary)


def raw_request(body: memoryview, name: str, datatype: str, shape: Sequence[int]) -> InferRequest:
    """Read a body that is one raw input of a model with exactly one input.

    Args:
        body: the raw bytes.
        name, datatype, shape: of the model's input; -1 marks a variable dimension, at most one.
    """
    if datatype == "BYTES":
        value = bytes_array([bytes(body)], [1])
        return InferRequest({name: Input(name, datatype, value)}, all_binary=True)
    if shape.count(-1) > 1:
        raise V2BadRequestError("a raw request needs a model with at most one variable dimension")
    fixed = 1
    for size in shape:
        fixed *= size if size > 0 else 1
    width = DATATYPES[datatype].itemsize * fixed
    if width == 0 or len(body) % width or (-1 not in shape and len(body) != width):
        raise V2BadRequestError("the raw body does not fit the model's input")
    full = [len(body) // width if size == -1 else size for size in shape]
    value = from_binary(name, datatype, full, body)
    return InferRequest({name: Input(name, datatype, value)}, all_binary=True)


def encode_response(
    request: InferRequest, model: str, version: str, outputs: Sequence[Output]
) -> tuple[bytes, int | None]:
    """Write a response; gives the body and, when it has binary parts, the length of its JSON.

    Raises:
        V2BadRequestError: an output that JSON cannot hold.
    """
    modes = {one.name: one.is_binary for one in request.wanted}
    listed: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for output in outputs:
        entry: dict[str, Any] = {
            "name": output.name,
            "datatype": output.datatype,
            "shape": list(output.value.shape),
        }
        if modes.get(output.name, request.all_binary):
            raw = encode_tensor(output.datatype, output.value)
            entry["parameters"] = {"binary_data_size": len(raw)}
            parts.append(raw)
        else:
            entry["data"] = to_json(output.name, output.datatype, output.value)
        listed.append(entry)
    document: dict[str, Any] = {"model_name": model, "model_version": version}
    if request.id is not None:
        document["id"] = request.id
    header = orjson.dumps({**document, "outputs": listed})
    return (header + b"".join(parts), len(header)) if parts else (header, None)


def _inputs(document: Mapping[str, Any], binary: memoryview) -> dict[str, Input]:
    listed = document.get("inputs")
    if not isinstance(listed, list) or not listed or len(listed) > _TENSORS_MAX:
        raise V2BadRequestError(f"inputs must be a list of 1 to {_TENSORS_MAX} tensors")
    found: dict[str, Input] = {}
    at = 0
    for entry in listed:
        name, datatype, shape, size = _input_head(entry)
        if name in found:
            raise V2BadRequestError(f"input '{name}' is given twice")
        if size is None:
            value = from_json(name, datatype, shape, entry.get("data"))
        else:
            if at + size > len(binary):
                raise V2BadRequestError(f"input '{name}': the body ends before its binary data")
            value = from_binary(name, datatype, shape, binary[at : at + size])
            at += size
        found[name] = Input(name, datatype, value)
    if at != len(binary):
        raise V2BadRequestError("the body has bytes that no input claims")
    return found


def _input_head(entry: object) -> tuple[str, str, list[int], int | None]:
    """Check name, datatype, shape and binary size of one input."""
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise V2BadRequestError("each input is an object with a name")
    name, datatype, shape = entry["name"], entry.get("datatype"), entry.get("shape")
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise V2BadRequestError(f"input '{name}': unknown or unsupported datatype")
    if not isinstance(shape, list):
        raise V2BadRequestError(f"input '{name}': shape must be a list of integers")
    element_count(name, shape)
    size = _object(entry, "parameters").get("binary_data_size")
    if size is None:
        return name, datatype, shape, None
    if type(size) is not int or size < 0:
        raise V2BadRequestError(f"input '{name}': binary_data_size must be a size in bytes")
    if "data" in entry:
        raise V2BadRequestError(f"input '{name}': data and binary_data_size exclude each other")
    return name, datatype, shape, size


def _wanted(document: Mapping[str, Any], *, all_binary: bool) -> tuple[Wanted, ...]:
    listed = document.get("outputs", [])
    if not isinstance(listed, list) or len(listed) > _TENSORS_MAX:
        raise V2BadRequestError("outputs must be a list")
    found = []
    for entry in listed:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise V2BadRequestError("each output is an object with a name")
        name, parameters = entry["name"], _object(entry, "parameters")
        classes = parameters.get("classification", 0)
        if type(classes) is not int or classes < 0:
            raise V2BadRequestError(f"output '{name}': classification must be a count")
        is_binary = all_binary
        if "binary_data" in parameters:
            is_binary = _flag(parameters, "binary_data", f"output '{name}'")
        found.append(Wanted(name, is_binary, classes))
    if len({one.name for one in found}) != len(found):
        raise V2BadRequestError("an output is asked for twice")
    return tuple(found)


def _object(entry: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = entry.get(key, {})
    if not isinstance(value, dict):
        raise V2BadRequestError(f"{key} must be an object")
    return value


def _flag(parameters: Mapping[str, Any], key: str, where: str) -> bool:
    value = parameters.get(key, False)
    if not isinstance(value, bool):
        raise V2BadRequestError(f"{where}: {key} must be true or false")
    return value
