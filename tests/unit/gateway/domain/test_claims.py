"""Headers and claims that no key can make acceptable."""

import base64
import json
from typing import Any

import pytest

from services.gateway.domain.claims import (
    ClaimError,
    Issuer,
    check_header,
    scopes_of,
    subject_of,
    unverified,
)

OWN = Issuer("gatehouse", "gatehouse", ("EdDSA",), "at+jwt")
EXTERNAL = Issuer(
    "https://i", "g", ("RS256",), "JWT", "acme", "groups", {"ml": ("predict:*", "models:read")}
)
GOOD = {"alg": "EdDSA", "typ": "at+jwt", "kid": "a1"}


def test_a_plain_header_gives_its_key_id() -> None:
    assert check_header(GOOD, OWN) == "a1"
    assert check_header({**GOOD, "typ": "AT+JWT"}, OWN) == "a1"
    assert check_header({"alg": "RS256", "kid": "k"}, EXTERNAL) == "k"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"alg": "none"}, "algorithm"),
        ({"alg": "None"}, "algorithm"),
        ({"alg": "nOnE"}, "algorithm"),
        ({"alg": "HS256"}, "algorithm"),
        ({"alg": "RS256"}, "algorithm"),
        ({"alg": "eddsa"}, "algorithm"),
        ({"alg": None}, "algorithm"),
        ({"typ": "JWT"}, "type"),
        ({"typ": "rt+jwt"}, "type"),
        ({"typ": None}, "type"),
        ({"crit": ["exp"]}, "extension"),
        ({"b64": False, "crit": ["b64"]}, "extension"),
        ({"zip": "DEF"}, "extension"),
        ({"kid": "../../../dev/null"}, "key_id"),
        ({"kid": "' OR 1=1 --"}, "key_id"),
        ({"kid": "k" * 200}, "key_id"),
        ({"kid": ["a"]}, "key_id"),
        ({"kid": None}, "key_id"),
    ],
)
def test_headers_that_are_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ClaimError, match=reason):
        check_header({**GOOD, **change}, OWN)


@pytest.mark.parametrize("name", ["jwk", "jku", "x5u", "x5c"])
def test_keys_that_a_token_brings_along_are_not_looked_at(name: str) -> None:
    assert check_header({**GOOD, name: "https://evil.example/keys"}, OWN) == "a1"


@pytest.mark.parametrize(
    "token", ["", "a.b", "a.b.c.d", "..", "e30.e30", "!!.!!.!!", "e30.W10.x", "x" * 9_000 + ".a.b"]
)
def test_what_is_not_a_token(token: str) -> None:
    with pytest.raises(ClaimError):
        unverified(token)


def test_parts_are_read_strictly() -> None:
    def part(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    assert unverified(f"{part(GOOD)}.{part({'iss': 'x'})}.sig") == (GOOD, {"iss": "x"})
    with pytest.raises(ClaimError):
        unverified(f"{part(GOOD)}\n.{part({})}.sig")


@pytest.mark.parametrize("subject", [None, 7, "", "a b", "a\nb", "x" * 129, "a{b}"])
def test_subjects_that_may_not_be_principals(subject: Any) -> None:
    with pytest.raises(ClaimError):
        subject_of({"sub": subject})


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        (["ml"], {"predict:*", "models:read"}),
        ("ml other", {"predict:*", "models:read"}),
        (["*", "tenants:admin"], set()),
        ([7, {"ml": 1}], set()),
        (None, set()),
    ],
)
def test_an_external_issuer_grants_what_its_map_says(held: Any, expected: set[str]) -> None:
    assert scopes_of({"groups": held}, EXTERNAL) == expected
