"""Service identities: only a trusted issuer, for this audience, for half a minute."""

import base64
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.errors import UnauthenticatedError
from libs.common.identity import LIFETIME_S, Signer, Verifier, ensure_keys

NOW = 1_700_000_000.0


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("keys")
    ensure_keys(directory, ["gateway", "inference", "guardrails"])
    return directory


def signer(keys: Path, service: str, now: float = NOW) -> Signer:
    made = Signer.from_directory(service, keys)
    made._now = lambda: now
    return made


def verifier(keys: Path, now: float = NOW, issuers: tuple[str, ...] = ("gateway",)) -> Verifier:
    return Verifier("inference", keys, frozenset(issuers), now=lambda: now)


def test_what_was_signed_comes_out(keys: Path) -> None:
    header = signer(keys, "gateway").header(
        "inference", tenant="acme", principal="key:k1", scopes=["predict:fraud"]
    )
    caller = verifier(keys).verify(header)
    assert (caller.tenant, caller.principal, caller.issuer) == ("acme", "key:k1", "gateway")
    assert caller.may("predict:fraud")
    assert not caller.may("models:admin")


def test_private_keys_are_readable_by_the_owner_only(keys: Path) -> None:
    assert (keys / "gateway.key").stat().st_mode & 0o777 == 0o600


def test_keys_are_made_once(keys: Path) -> None:
    before = (keys / "gateway.key").read_text()
    ensure_keys(keys, ["gateway"])
    assert (keys / "gateway.key").read_text() == before


def test_a_header_is_reused_while_fresh_and_replaced_after(keys: Path) -> None:
    made = signer(keys, "gateway")
    first = made.header("inference", tenant="a", principal="p")
    assert made.header("inference", tenant="a", principal="p") == first
    made._now = lambda: NOW + LIFETIME_S
    assert made.header("inference", tenant="a", principal="p") != first


def test_a_header_is_replaced_when_the_clock_was_set_back(keys: Path) -> None:
    made = signer(keys, "gateway")
    before = made.header("inference")
    made._now = lambda: NOW - 3_600
    after = made.header("inference")
    assert after != before


@pytest.mark.parametrize(
    ("issuer", "audience", "principal", "later_s"),
    [
        pytest.param("guardrails", "inference", None, 0, id="issuer without an edge"),
        pytest.param("gateway", "features", "key:k", 0, id="another audience"),
        pytest.param("gateway", "inference", "key:k", 60, id="expired"),
        pytest.param("gateway", "inference", "key:k", -60, id="from the future"),
    ],
)
def test_refused_identities(
    keys: Path, issuer: str, audience: str, principal: str | None, later_s: float
) -> None:
    header = signer(keys, issuer).header(audience, tenant="a", principal=principal)
    with pytest.raises(UnauthenticatedError):
        verifier(keys, NOW + later_s).verify(header)


def test_a_service_may_not_speak_for_a_caller(keys: Path) -> None:
    header = signer(keys, "guardrails").header("inference", tenant="a", principal="key:k1")
    with pytest.raises(UnauthenticatedError, match="Only the gateway"):
        verifier(keys, issuers=("gateway", "guardrails")).verify(header)


def test_an_expired_identity_is_refused_even_when_cached(keys: Path) -> None:
    header = signer(keys, "gateway").header("inference", tenant="a", principal="p")
    check = verifier(keys)
    check.verify(header)
    check._now = lambda: NOW + LIFETIME_S + 10
    with pytest.raises(UnauthenticatedError):
        check.verify(header)


def test_changed_claims_do_not_verify(keys: Path) -> None:
    header = signer(keys, "gateway").header("inference", tenant="a", principal="p")
    payload, signature = header.split(".")
    claims = orjson.loads(base64.urlsafe_b64decode(payload + "=="))
    claims["tenant"] = "b"
    forged = base64.urlsafe_b64encode(orjson.dumps(claims)).rstrip(b"=").decode()
    with pytest.raises(UnauthenticatedError):
        verifier(keys).verify(f"{forged}.{signature}")


@given(st.text(max_size=200))
def test_any_other_text_is_refused_without_a_crash(keys: Path, text: str) -> None:
    with pytest.raises(UnauthenticatedError):
        verifier(keys).verify(text)
