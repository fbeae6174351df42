"""Finding and replacing user text: what is checked is what the service reads."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.errors import BadRequestError, InvalidInputError
from services.gateway.domain.guarded_text import (
    V2_POINTERS,
    binary_text_tensor,
    find,
    parse,
    replace,
)


@pytest.mark.parametrize(
    ("document", "pointers", "expected"),
    [
        ({"text": "a"}, ["/text"], {"/text": "a"}),
        ({"texts": ["a", "b"]}, ["/texts/*"], {"/texts/0": "a", "/texts/1": "b"}),
        ({"texts": "a"}, ["/texts/*"], {}),
        ({"other": "a"}, ["/text"], {}),
        ({"text": {"x": ["a", {"b": "c"}]}}, ["/text"], {"/text/x/0": "a", "/text/x/1/b": "c"}),
        ({"inputs": {"left": "a", "n": 3}}, ["/inputs/*"], {"/inputs/left": "a"}),
        (
            {"inputs": [{"name": "t", "datatype": "BYTES", "data": [["a"], ["b"]]}]},
            V2_POINTERS,
            {"/inputs/0/data/0/0": "a", "/inputs/0/data/1/0": "b"},
        ),
        ({"inputs": [{"datatype": "FP32", "data": [1.5]}]}, V2_POINTERS, {}),
        ([1, 2], ["/text"], {}),
    ],
)  # fmt: skip
def test_texts_are_found_by_pointer(
    document: Any, pointers: list[str], expected: dict[str, str]
) -> None:
    assert {item.pointer: item.text for item in find(document, pointers)} == expected


@pytest.mark.parametrize(
    "body",
    [
        b'{"text": "clean", "text": "dirty"}',
        b'{"a": {"text": "x", "text": "y"}}',
        '{"text": "x"}'.encode("utf-16"),
        b"\xff\xfe{}",
        b'{"text": NaN}',
        b"{",
        b"",
        b"[" * 100_000,
    ],
)
def test_a_body_that_could_be_read_in_two_ways_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequestError):
        parse(body)


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(InvalidInputError):
        find(parse(b'{"text": "\\ud800"}'), ["/text"])


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(_JSON)
def test_replacing_touches_every_text_below_the_pointer_and_nothing_else(value: Any) -> None:
    try:
        body = json.dumps({"text": value, "kept": value}).encode()
        document = parse(body)
        found = find(document, ["/text"])
    except InvalidInputError:
        return
    answer = json.loads(replace(found, [f"<{item.text}>" for item in found], document))

    def marked(node: Any) -> Any:
        if isinstance(node, str):
            return f"<{node}>"
        if isinstance(node, list):
            return [marked(item) for item in node]
        if isinstance(node, dict):
            return {name: marked(item) for name, item in node.items()}
        return node

    assert answer == {"text": marked(value), "kept": value}


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        ({"datatype": "BYTES"}, True),
        ({"datatype": "bytes"}, True),
        ({}, True),
        ({"datatype": "FP32"}, False),
    ],
)
def test_text_in_a_binary_tensor_is_recognized(tensor: dict[str, str], expected: bool) -> None:
    head = json.dumps({"inputs": [tensor]}).encode()
    assert binary_text_tensor(head + b"\x00\x01", str(len(head))) is expected


@pytest.mark.parametrize("length", ["-1", "x", "999999"])
def test_a_header_length_that_does_not_fit_is_refused(length: str) -> None:
    with pytest.raises(BadRequestError):
        binary_text_tensor(b"{}", length)
