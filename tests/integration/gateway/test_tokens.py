"""Tokens: issue, refresh, theft, revocation, rotation of keys, and forged ones."""

import base64
import hashlib
import hmac
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import jwt
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from services.gateway.adapters.token_keys import TokenKeys
from tests.support.gateway import RunningGateway, eventually, running_gateway

pytestmark = pytest.mark.anyio
PASSWORD = "correct horse battery"
WIDE: dict[str, Any] = {"ip_burst_per_s": 10_000, "ip_limit_requests": 10_000}


@pytest.fixture
async def gateway(
    state_dir: Path, clean_postgres: str, redis_url: str
) -> AsyncIterator[RunningGateway]:
    async with running_gateway(state_dir, clean_postgres, redis_url, **WIDE) as running:
        yield running


async def grant(gateway: RunningGateway, **form: str) -> tuple[int, Any, dict[str, str]]:
    return await gateway.call("POST", "/v1/auth/token", key=None, data=form)


async def client(gateway: RunningGateway, key: str, **form: str) -> dict[str, Any]:
    status, body, headers = await grant(
        gateway, grant_type="client_credentials", client_secret=key, **form
    )
    assert status == 200, body
    assert headers["cache-control"] == "no-store"
    return dict(body)


async def status_of(gateway: RunningGateway, token: str, path: str = "/models") -> int:
    bearer = {"Authorization": f"Bearer {token}"}
    return (await gateway.call("GET", path, key=None, headers=bearer))[0]


def own_keys(gateway: RunningGateway) -> TokenKeys:
    """Give the keys that the gateway signs with."""
    edge: Any = gateway.app.edge
    keys = edge._admission._authenticator._tokens._issuers["gatehouse"][1]
    assert isinstance(keys, TokenKeys)
    return keys


async def test_client_credentials_give_a_token_that_is_a_narrow_copy_of_the_key(
    gateway: RunningGateway,
) -> None:
    key = await gateway.make_key(scopes=["models:read", "audit:read"], limits={"requests_max": 7})
    tokens = await client(gateway, key, client_id=key.split("_")[1], scope="models:read")
    assert (tokens["scope"], tokens["token_type"]) == ("models:read", "Bearer")
    header = jwt.get_unverified_header(tokens["access_token"])
    assert (header["alg"], header["typ"]) == ("EdDSA", "at+jwt")
    _, jwks, headers = await gateway.call("GET", "/.well-known/jwks.json", key=None)
    assert headers["cache-control"] == "public, max-age=300"
    known = {entry["kid"]: jwt.PyJWK(entry) for entry in jwks["keys"]}
    claims = jwt.decode(
        tokens["access_token"], known[header["kid"]], ["EdDSA"], audience="gatehouse"
    )
    assert (claims["tenant"], claims["client_id"]) == ("default", key.split("_")[1])
    bearer = {"Authorization": f"Bearer {tokens['access_token']}"}
    status, _, headers = await gateway.call("GET", "/models", key=None, headers=bearer)
    assert (status, '"key";q=7' in headers["ratelimit-policy"]) == (200, True)
    assert await status_of(gateway, tokens["access_token"], "/v1/audit/events") == 403
    for wrong in ({"scope": "keys:write"}, {"client_id": "other"}, {"client_secret": key[:-1]}):
        form = {"grant_type": "client_credentials", "client_secret": key, **wrong}
        status, problem, _ = await grant(gateway, **form)
        assert (status, problem["error"]) in {(400, "invalid_scope"), (401, "invalid_client")}
        assert key not in str(problem)
    # A token buys no further token.
    form = {"grant_type": "client_credentials", "client_secret": tokens["access_token"]}
    assert (await grant(gateway, **form))[0] == 401
    # Revoking the key ends what it bought.
    await gateway.call("DELETE", f"/v1/auth/keys/{key.split('_')[1]}")
    assert await status_of(gateway, tokens["access_token"]) == 401
    refresh = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
    assert (await grant(gateway, **refresh))[1]["error"] == "invalid_grant"


async def test_a_used_refresh_token_gets_one_sibling_and_then_ends_its_family(
    gateway: RunningGateway, clean_postgres: str
) -> None:
    key = await gateway.make_key(scopes=["models:read"])
    first = await client(gateway, key)

    async def refresh(token: str) -> tuple[int, Any]:
        return (await grant(gateway, grant_type="refresh_token", refresh_token=token))[:2]

    _, second = await refresh(first["refresh_token"])
    assert second["refresh_token"] != first["refresh_token"]
    assert (await refresh(first["refresh_token"]))[0] == 200  # the reply was lost: a sibling
    assert await status_of(gateway, second["access_token"]) == 200
    status, problem = await refresh(first["refresh_token"])
    assert (status, problem["error"]) == (400, "invalid_grant")
    assert await status_of(gateway, second["access_token"]) == 401
    assert (await refresh(second["refresh_token"]))[0] == 400
    event = gateway.recorder.of("auth.revoked")[0].data
    assert (event["reason"], bool(event["family"])) == ("reuse", True)
    # A repeat that comes late is theft at once.
    other = await client(gateway, key)
    _, _ = await refresh(other["refresh_token"])
    connection = await asyncpg.connect(clean_postgres)
    await connection.execute(
        "UPDATE gateway.refresh_tokens SET used_at = now() - interval '11 s' "
        "WHERE used_at IS NOT NULL"
    )
    await connection.close()
    assert (await refresh(other["refresh_token"]))[0] == 400
    assert len(gateway.recorder.of("auth.revoked")) == 2


async def test_revocation_works_at_once_here_and_within_seconds_elsewhere(
    gateway: RunningGateway, state_dir: Path, clean_postgres: str, redis_url: str
) -> None:
    async with running_gateway(state_dir, clean_postgres, redis_url, **WIDE) as other:
        tokens = await client(gateway, await gateway.make_key(scopes=["models:read"]))
        access = tokens["access_token"]
        assert await status_of(other, access) == 200

        async def revoke(token: str) -> int:
            return (await gateway.call("POST", "/v1/auth/revoke", key=None, data={"token": token}))[
                0
            ]

        assert await revoke(access) == 200
        assert await status_of(gateway, access) == 401
        started = time.monotonic()

        async def is_refused() -> bool:
            return await status_of(other, access) == 401

        await eventually(is_refused, timeout_s=10)
        assert time.monotonic() - started < 5
        form = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
        _, renewed, _ = await grant(gateway, **form)
        assert await revoke(renewed["refresh_token"]) == 200
        assert await status_of(gateway, renewed["access_token"]) == 401
        for unknown in ("nonsense", "ey.ey.ey", renewed["refresh_token"]):
            assert await revoke(unknown) == 200


async def test_people_log_in_with_a_password_until_they_are_disabled(
    gateway: RunningGateway,
) -> None:
    await gateway.call("PUT", "/v1/admin/roles/reader", json={"scopes": ["models:read"]})
    person = {"username": "ada", "password": PASSWORD, "roles": ["reader"]}
    assert (await gateway.call("POST", "/v1/admin/users", json=person))[0] == 201
    assert PASSWORD not in str([event.to_wire() for event in gateway.recorder.events])
    status, tokens, _ = await grant(
        gateway, grant_type="password", username="ada", password=PASSWORD
    )
    assert (status, tokens["scope"]) == (200, "models:read")
    assert await status_of(gateway, tokens["access_token"]) == 200
    for name, password in (("ada", "wrong password"), ("eve", PASSWORD)):
        status, problem, _ = await grant(
            gateway, grant_type="password", username=name, password=password
        )
        assert (status, problem["error"]) == (400, "invalid_grant")
    change = {"disabled": True}
    assert (await gateway.call("PUT", "/v1/admin/users/ada", json=change))[0] == 200
    assert await status_of(gateway, tokens["access_token"]) == 401
    form = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
    assert (await grant(gateway, **form))[0] == 400


async def test_a_new_signing_key_does_not_end_older_tokens(gateway: RunningGateway) -> None:
    key = await gateway.make_key(scopes=["models:read"])
    older = (await client(gateway, key))["access_token"]
    await own_keys(gateway).rotate()
    newer = (await client(gateway, key))["access_token"]
    kids = {jwt.get_unverified_header(token)["kid"] for token in (older, newer)}
    assert len(kids) == 2
    assert await status_of(gateway, older) == await status_of(gateway, newer) == 200
    _, jwks, _ = await gateway.call("GET", "/.well-known/jwks.json", key=None)
    assert kids == {entry["kid"] for entry in jwks["keys"]}


async def test_requests_that_are_no_grant(gateway: RunningGateway) -> None:
    for form in ({}, {"grant_type": "implicit"}, {"grant_type": "refresh_token"}):
        status, problem, _ = await gateway.call("POST", "/v1/auth/token", key=None, data=form)
        assert status == 400
        errors = {"unsupported_grant_type", "invalid_grant", "invalid_request"}
        assert problem["error"] in errors
    repeated = b"grant_type=refresh_token&grant_type=password"
    media = {"Content-Type": "application/x-www-form-urlencoded"}
    _, problem, _ = await gateway.call(
        "POST", "/v1/auth/token", key=None, data=repeated, headers=media
    )
    assert problem["error"] == "invalid_request"
    _, problem, _ = await gateway.call("POST", "/v1/auth/token", key=None, json={})
    assert problem["error"] == "invalid_request"


async def test_forged_tokens_are_401(gateway: RunningGateway) -> None:
    key = await gateway.make_key(scopes=["models:read"])
    good = (await client(gateway, key))["access_token"]
    _, jwks, _ = await gateway.call("GET", "/.well-known/jwks.json", key=None)
    entry = jwks["keys"][0]
    public = jwt.PyJWK(entry).key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    claims = jwt.decode(good, options={"verify_signature": False})
    header = {"alg": "EdDSA", "typ": "at+jwt", "kid": entry["kid"]}
    mine = Ed25519PrivateKey.generate()

    def signed(**change: Any) -> str:
        return jwt.encode({**claims, **change}, mine, "EdDSA", headers=header)

    def by_hand(head: dict[str, Any], secret: bytes | None) -> str:
        parts = [_b64(orjson.dumps({**header, **head})), _b64(orjson.dumps(claims))]
        text = ".".join(parts)
        mac = hmac.new(secret, text.encode(), hashlib.sha256).digest() if secret else b""
        return f"{text}.{_b64(mac)}"

    whole, _, signature = good.rpartition(".")
    forged = {
        "alg none": by_hand({"alg": "none"}, None),
        "alg nOnE": by_hand({"alg": "nOnE"}, None),
        "signature stripped": f"{whole}.",
        "public key as HMAC secret, PEM": by_hand({"alg": "HS256"}, public),
        "public key as HMAC secret, JWK": by_hand({"alg": "HS256"}, orjson.dumps(entry)),
        "public key as HMAC secret, raw": by_hand({"alg": "HS256"}, _unb64(entry["x"])),
        "EdDSA named over an HMAC": by_hand({}, public),
        "another key under our kid": signed(),
        "own key in the header": jwt.encode(
            claims, mine, "EdDSA", headers={**header, "jwk": _own_jwk(mine)}
        ),
        "kid with a path": by_hand({"kid": "../../etc/passwd"}, None),
        "kid with SQL": by_hand({"kid": "x' UNION SELECT 1"}, None),
        "wider scope": _with(good, scope="*"),
        "other tenant": _with(good, tenant="acme"),
        "other issuer": signed(iss="https://evil.example"),
        "no issuer": _with(good, iss=None),
        "last byte of the signature": f"{whole}.{signature[:-3]}{'AAA' if signature[-3:] != 'AAA' else 'BBB'}",  # noqa: E501 - one case
        "huge": good + "A" * 10_000,
    }
    for name, token in forged.items():
        assert await status_of(gateway, token) == 401, name
    assert await status_of(gateway, good) == 200
    assert gateway.upstreams["inference"].received[-1].target == "/models"
    # The cache of verified credentials is keyed by the whole token (CVE-2026-35030).
    assert await status_of(gateway, good + "x") == 401
    text = str([event.to_wire() for event in gateway.recorder.events])
    assert signature not in text


async def test_own_tokens_with_wrong_claims_are_401(gateway: RunningGateway) -> None:
    key = await gateway.make_key(scopes=["models:read"])
    good = (await client(gateway, key))["access_token"]
    claims = jwt.decode(good, options={"verify_signature": False})
    signer = await own_keys(gateway).current()
    assert signer.private is not None
    private = signer.private
    now = int(time.time())

    def signed(typ: str = "at+jwt", **change: Any) -> str:
        body = {k: v for k, v in {**claims, **change}.items() if v is not None}
        return jwt.encode(body, private, "EdDSA", headers={"typ": typ, "kid": signer.kid})

    assert await status_of(gateway, signed()) == 200
    assert await status_of(gateway, signed(exp=now - 10)) == 200  # within the leeway
    wrong = {
        "audience": signed(aud="other"),
        "no audience": signed(aud=None),
        "expired": signed(exp=now - 60),
        "no expiry": signed(exp=None),
        "not yet": signed(nbf=now + 600),
        "refresh as access": signed(typ="rt+jwt"),
        "plain JWT": signed(typ="JWT"),
        "no subject": signed(sub=None),
        "subject": signed(sub="a b"),
        "tenant": signed(tenant=None),
        "client": signed(client_id="0" * 12),
    }
    for name, token in wrong.items():
        assert await status_of(gateway, token) == 401, name


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _own_jwk(key: Ed25519PrivateKey) -> dict[str, str]:
    raw = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return {"kty": "OKP", "crv": "Ed25519", "x": _b64(raw)}


def _with(token: str, **change: Any) -> str:
    head, body, signature = token.split(".")
    claims = {**orjson.loads(_unb64(body)), **change}
    return f"{head}.{_b64(orjson.dumps(claims))}.{signature}"
