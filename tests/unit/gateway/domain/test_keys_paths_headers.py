"""Key text, raw paths, header hygiene, addresses: pure, with properties and named attacks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.domain import keys
from services.gateway.domain.address import client_address, network_of
from services.gateway.domain.headers import for_caller, for_upstream
from services.gateway.domain.paths import path_problem


def test_a_new_key_has_the_documented_form() -> None:
    key_id, text = keys.new_key()
    assert len(text) == len("gh_") + 12 + 1 + 43 + 6
    assert keys.key_id_of(text) == key_id


@given(st.integers(0, 64), st.sampled_from("0aZ_-"))
def test_a_typo_is_caught_without_a_look_up(position: int, character: str) -> None:
    _, text = keys.new_key()
    position %= len(text)
    wrong = text[:position] + character + text[position + 1 :]
    assert wrong == text or keys.key_id_of(wrong) is None


@given(st.text(max_size=200))
def test_no_text_makes_the_parser_fail(text: str) -> None:
    assert keys.key_id_of(text) is None


def test_the_digest_depends_on_pepper_and_every_character() -> None:
    _, text = keys.new_key()
    digest = keys.digest(b"pepper", text)
    assert not keys.same(digest, keys.digest(b"other", text))
    assert not keys.same(digest, keys.digest(b"pepper", text[:-1]))


@pytest.mark.parametrize(
    "path",
    [
        b"/a/../b", b"/..", b"/a/.", b"/./a", b"//a", b"/a//b", b"/a\\b", b"/a;x", b"/a#b", b"/a b",
        b"/a%00", b"/a%2e%2e/b", b"/%2E%2E/", b"/a%2fb", b"/a%5cb", b"/a%252e", b"/a%25252f",
        b"/a%", b"/a%zz", b"/a\x00", b"/a\x7f", b"/\xc3\xa9", b"a", b"*", b"/" + b"a" * 3000,
    ],
)  # fmt: skip
def test_forms_that_two_parsers_could_read_differently_are_refused(path: bytes) -> None:
    assert path_problem(path)


@pytest.mark.parametrize(
    "path", [b"/", b"/score/fraud", b"/v2/models/a.b-c_d/infer", b"/a/b..c", b"/a%20b", b"/x/..."]
)
def test_plain_paths_pass(path: bytes) -> None:
    assert path_problem(path) is None


@pytest.mark.parametrize(
    "name",
    [
        b"x-gatehouse-identity", b"x_gatehouse_identity", b"x.gatehouse.identity", b"x-tenant",
        b"x_tenant", b"x.tenant_id", b"x-tenant-id", b"connection", b"te", b"upgrade", b"trailer",
        b"authorization", b"x-api-key", b"cookie", b"x-forwarded-for", b"forwarded", b"x-real-ip",
        b"x-listed",
    ],
)  # fmt: skip
def test_no_internal_hop_or_credential_header_goes_on(name: bytes) -> None:
    sent = [(b"connection", b"close, X-Listed"), (name, b"value"), (b"accept", b"*/*")]
    assert for_upstream(sent, b"close, X-Listed") == [b"accept: */*"]


def test_connection_cannot_strip_what_the_gateway_adds_later() -> None:
    listed = b"x-gatehouse-identity"
    sent = [(b"connection", listed), (b"x-ok", b"1")]
    assert for_upstream(sent, listed) == [b"x-ok: 1"]


def test_a_service_cannot_leak_internals_back() -> None:
    sent = [(b"X-Gatehouse-Shard", b"1"), (b"Set-Cookie", b"a=b"), (b"ETag", b"x")]
    assert for_caller(sent) == [(b"etag", b"x")]


@pytest.mark.parametrize(
    ("peer", "forwarded", "hops", "expected"),
    [
        ("9.9.9.9", "1.1.1.1", 0, "9.9.9.9"),
        ("9.9.9.9", "6.6.6.6, 1.1.1.1", 1, "1.1.1.1"),
        ("9.9.9.9", "6.6.6.6, 1.1.1.1, 2.2.2.2", 2, "1.1.1.1"),
        ("9.9.9.9", "1.1.1.1", 2, "9.9.9.9"),
        ("9.9.9.9", "not an address", 1, "9.9.9.9"),
    ],
)
def test_the_client_is_counted_from_the_right(
    peer: str, forwarded: str, hops: int, expected: str
) -> None:
    assert client_address(peer, forwarded, hops) == expected


def test_networks() -> None:
    assert network_of("10.1.2.3") == "10.1.2.3"
    assert network_of("2001:db8:1:2:3:4:5:6") == "2001:db8:1:2::/64"
    assert network_of("::ffff:10.1.2.3") == "10.1.2.3"
    assert network_of("") == "0.0.0.0"
