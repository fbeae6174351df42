"""The V2 codec: golden bytes, round trips of every datatype, and what it refuses."""

import gzip
import json
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.errors import PayloadTooLargeError
from services.inference.domain.tensors import DATATYPES
from services.inference.domain.tensors import encode_tensor as to_binary
from services.inference.routes.v2 import messages
from services.inference.routes.v2.errors import V2BadRequestError
from services.inference.routes.v2.messages import (
    InferRequest,
    Output,
    Wanted,
    compress,
    decode_request,
    decompress,
    encode_response,
    raw_request,
)
from services.inference.routes.v2.tensors import from_binary, from_json, to_json


def _body(document: dict[str, Any], *binary: bytes) -> tuple[bytes, str]:
    header = json.dumps(document).encode()
    return header + b"".join(binary), str(len(header))


def test_golden_bytes_of_binary_tensors():
    assert to_binary("INT32", np.array([[1, -2]])) == bytes.fromhex("01000000feffffff")
    assert to_binary("FP32", np.array([1.5])) == bytes.fromhex("0000c03f")
    assert to_binary("BOOL", np.array([True, False])) == b"\x01\x00"
    texts = np.array([b"a", b"", "ü".encode()], dtype=object)
    assert to_binary("BYTES", texts) == b"\x01\0\0\0a\0\0\0\0\x02\0\0\0\xc3\xbc"


@settings(deadline=None)
@given(st.sampled_from(sorted(DATATYPES)), st.integers(0, 5), st.integers(0, 4), st.integers(0))
def test_binary_round_trips_for_every_datatype(datatype: str, rows: int, columns: int, seed: int):
    generator = np.random.default_rng(seed % (1 << 32))
    if datatype == "BYTES":
        value = np.empty((rows, columns), dtype=object)
        for index in np.ndindex(value.shape):
            value[index] = generator.bytes(int(generator.integers(0, 9)))
    elif datatype == "BOOL":
        value = generator.integers(0, 2, (rows, columns)).astype(bool)
    else:
        value = generator.integers(0, 100, (rows, columns)).astype(DATATYPES[datatype])
    raw = to_binary(datatype, value)
    back = from_binary("x", datatype, [rows, columns], memoryview(raw))
    assert back.shape == value.shape
    assert back.dtype == value.dtype
    assert (back == value).all()


@settings(deadline=None)
@given(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=12), st.booleans())
def test_json_data_may_be_flat_or_nested(values: list[int], is_nested: bool):
    data: list[Any] = [values] if is_nested else values
    array = from_json("x", "INT32", [1, len(values)], data if values else [])
    assert array.tolist() == [values]
    assert to_json("x", "INT32", array) == values


def test_json_and_binary_inputs_mix_in_json_order():
    first, second = struct.pack("<2i", 1, 2), struct.pack("<I", 2) + b"hi"
    body, size = _body(
        {
            "id": "7",
            "inputs": [
                {
                    "name": "a",
                    "shape": [2],
                    "datatype": "INT32",
                    "parameters": {"binary_data_size": 8},
                },
                {"name": "b", "shape": [1, 2], "datatype": "FP64", "data": [[1, 2.5]]},
                {
                    "name": "c",
                    "shape": [1],
                    "datatype": "BYTES",
                    "parameters": {"binary_data_size": 6},
                },
                {
                    "name": "d",
                    "shape": [0],
                    "datatype": "FP32",
                    "parameters": {"binary_data_size": 0},
                },
            ],
            "outputs": [{"name": "y", "parameters": {"binary_data": False}}, {"name": "z"}],
            "parameters": {"binary_data_output": True, "unknown": 1},
        },
        first,
        second,
    )
    request = decode_request(body, size)
    assert request.inputs["a"].value.tolist() == [1, 2]
    assert request.inputs["b"].value.tolist() == [[1.0, 2.5]]
    assert request.inputs["c"].value.tolist() == [b"hi"]
    assert request.inputs["d"].value.shape == (0,)
    assert [(one.name, one.is_binary) for one in request.wanted] == [("y", False), ("z", True)]
    assert request.id == "7"


_INT = {"name": "a", "shape": [2], "datatype": "INT32"}


@pytest.mark.parametrize(
    ("entry", "binary"),
    [
        ({**_INT, "data": [1]}, b""),
        ({**_INT, "data": [1, 2, 3]}, b""),
        ({**_INT, "data": [1, 2.5]}, b""),
        ({**_INT, "data": [1, True]}, b""),
        ({**_INT, "data": [1, None]}, b""),
        ({**_INT, "data": ["1", "2"]}, b""),
        ({**_INT, "data": [[1], 2]}, b""),
        ({**_INT, "data": [1, 1 << 40]}, b""),
        ({**_INT, "data": [1, 1 << 70]}, b""),
        (_INT, b""),
        ({**_INT, "data": [1, 2], "parameters": {"binary_data_size": 8}}, b"12345678"),
        ({**_INT, "parameters": {"binary_data_size": 8}}, b"1234"),
        ({**_INT, "parameters": {"binary_data_size": 8}}, b"123456789"),
        ({**_INT, "parameters": {"binary_data_size": 4}}, b"1234"),
        ({**_INT, "parameters": {"binary_data_size": -1}}, b""),
        ({**_INT, "parameters": {"binary_data_size": True}}, b"1"),
        ({**_INT, "shape": [-1], "data": [1]}, b""),
        ({**_INT, "shape": [1.5], "data": [1]}, b""),
        ({**_INT, "shape": [True], "data": [1]}, b""),
        ({**_INT, "shape": [1 << 20, 1 << 20, 1 << 20], "data": [1]}, b""),
        ({**_INT, "shape": [1] * 9, "data": [1]}, b""),
        ({**_INT, "datatype": "BF16", "data": [1, 2]}, b""),
        ({**_INT, "datatype": "FP16", "data": [1, 2]}, b""),
        ({**_INT, "datatype": "BOOL", "data": [1, 2]}, b""),
        ({**_INT, "datatype": "BYTES", "data": ["a", 1]}, b""),
        ({**_INT, "datatype": "BYTES", "parameters": {"binary_data_size": 5}}, b"\x09\0\0\0a"),
        ({**_INT, "datatype": "BYTES", "parameters": {"binary_data_size": 5}}, b"\x01\0\0\0a"),
        ({**_INT, "name": 7, "data": [1, 2]}, b""),
        ("a", b""),
    ],
)
def test_inputs_that_do_not_fit_are_refused(entry: Any, binary: bytes):
    body, size = _body({"inputs": [entry]}, binary)
    with pytest.raises(V2BadRequestError):
        decode_request(body, size)


@pytest.mark.parametrize(
    ("body", "size"),
    [
        (b"{", None),
        (b"[]", None),
        (b"{}", None),
        (b'{"inputs": []}', None),
        (b'{"inputs": {}}', None),
        (b"\xff\xfe", None),
        (b"{}", "3"),
        (b"{}", "-1"),
        (b"{}", "x"),
        (b'{"inputs": [{"name":"a","shape":[1],"datatype":"INT8","data":[1]}], "id": 7}', None),
        (b'{"inputs": [{"name":"a","shape":[1],"datatype":"INT8","data":[NaN]}]}', None),
    ],
)
def test_bodies_that_are_no_request_are_refused(body: bytes, size: str | None):
    with pytest.raises(V2BadRequestError):
        decode_request(body, size)


def test_a_response_with_binary_parts_says_where_its_json_ends():
    request = InferRequest({}, (Wanted("y", is_binary=True), Wanted("z")), id="q")
    outputs = [
        Output("y", "FP32", np.array([[1.0, 2.0]], dtype=np.float32)),
        Output("z", "BYTES", np.array([b"ok"], dtype=object)),
    ]
    body, size = encode_response(request, "m", "3", outputs)
    assert size is not None
    document = json.loads(body[:size])
    assert document == {
        "model_name": "m",
        "model_version": "3",
        "id": "q",
        "outputs": [
            {
                "name": "y",
                "datatype": "FP32",
                "shape": [1, 2],
                "parameters": {"binary_data_size": 8},
            },
            {"name": "z", "datatype": "BYTES", "shape": [1], "data": ["ok"]},
        ],
    }
    assert body[size:] == struct.pack("<2f", 1.0, 2.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_json_cannot_hold_are_an_error_that_asks_for_binary(value: float):
    outputs = [Output("y", "FP32", np.array([value], dtype=np.float32))]
    with pytest.raises(V2BadRequestError, match="binary"):
        encode_response(InferRequest({}), "m", "1", outputs)
    body, size = encode_response(InferRequest({}, all_binary=True), "m", "1", outputs)
    assert size is not None
    assert len(body) == size + 4


def test_a_raw_body_is_the_single_input():
    rows = np.arange(6, dtype="<f4")
    request = raw_request(memoryview(rows.tobytes()), "x", "FP32", [-1, 3])
    assert request.inputs["x"].value.tolist() == [[0, 1, 2], [3, 4, 5]]
    text = raw_request(memoryview(b"hello"), "text", "BYTES", [-1])
    assert text.inputs["text"].value.tolist() == [b"hello"]
    with pytest.raises(V2BadRequestError):
        raw_request(memoryview(b"12345"), "x", "FP32", [-1, 3])
    with pytest.raises(V2BadRequestError):
        raw_request(memoryview(b"1234"), "x", "FP32", [-1, -1])


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "", "identity", "GZIP"])
def test_compressed_bodies_are_read(encoding: str):
    body = b"x" * 1000
    packings: dict[str, Any] = {"gzip": gzip.compress, "deflate": zlib.compress}
    packed = packings.get(encoding.lower(), bytes)(body)
    assert decompress(packed, encoding) == body


def test_bombs_cut_bodies_and_other_encodings_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(messages, "BODY_BYTES_MAX", 10_000)
    with pytest.raises(PayloadTooLargeError):
        decompress(gzip.compress(b"\0" * 10_001), "gzip")
    with pytest.raises(V2BadRequestError):
        decompress(gzip.compress(b"abc")[:-4], "gzip")
    with pytest.raises(V2BadRequestError):
        decompress(b"abc", "gzip")
    with pytest.raises(V2BadRequestError):
        decompress(b"abc", "br")


def test_an_answer_is_compressed_with_what_the_caller_takes():
    body = b"y" * 1000
    packed, name = compress(body, "br, gzip;q=0.5")
    assert (gzip.decompress(packed), name) == (body, "gzip")
    packed, name = compress(body, "deflate")
    assert (zlib.decompress(packed), name) == (body, "deflate")
    assert compress(body, "br") == (body, None)
