"""Identifiers are ordered, well-formed and safe to echo."""

import time
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.ids import acceptable_request_id, parse_traceparent, uuid7


def test_uuid7_is_version_seven_and_ordered_by_time() -> None:
    first = uuid7()
    time.sleep(0.002)
    second = uuid7()
    assert uuid.UUID(first).version == 7
    assert uuid.UUID(first).variant == uuid.RFC_4122
    assert first < second


def test_a_million_ids_do_not_collide_in_a_sample() -> None:
    assert len({uuid7() for _ in range(20_000)}) == 20_000


@pytest.mark.parametrize("value", ["", "a" * 129, "a b", "a\r\nb: c", "é", None])
def test_unsafe_request_ids_are_not_taken_over(value: str | None) -> None:
    assert acceptable_request_id(value) is None


def test_a_traceparent_is_split() -> None:
    header = f"00-{'a' * 32}-{'b' * 16}-01"
    assert parse_traceparent(header) == ("a" * 32, "b" * 16, True)


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "00-x",
        f"00-{'0' * 32}-{'b' * 16}-01",
        f"00-{'a' * 32}-{'0' * 16}-01",
        f"01-{'A' * 32}-{'b' * 16}-01",
    ],
)
def test_malformed_traceparents_are_refused(value: str | None) -> None:
    assert parse_traceparent(value) is None


@given(st.text())
def test_parsing_never_fails(text: str) -> None:
    parse_traceparent(text)
    acceptable_request_id(text)
