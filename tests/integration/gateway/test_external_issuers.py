"""Tokens of an external issuer, over a real local provider."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from libs.common.errors import UnavailableError
from services.gateway.adapters.jwks import (
    LIFE_S,
    STALE_S,
    UNKNOWN_EVERY_S,
    Fetcher,
    PublicResolver,
    RemoteKeys,
    UnsafeAddressError,
    is_public,
)
from services.gateway.settings import OidcIssuer
from tests.support.gateway import eventually, running_gateway
from tests.support.oidc import Provider, provider

pytestmark = pytest.mark.anyio


async def test_an_external_token_gets_the_scopes_of_its_map_in_its_tenant(
    state_dir: Path, clean_postgres: str, redis_url: str
) -> None:
    async with provider() as idp:
        issuer = OidcIssuer(
            issuer=idp.url,
            audience="gatehouse",
            tenant="default",
            scope_claim="groups",
            scope_map={"ml": ("models:read",)},
        )
        async with running_gateway(
            state_dir, clean_postgres, redis_url, oidc_issuers=(issuer,)
        ) as gateway:

            async def ask(token: str, path: str = "/models") -> tuple[int, Any, dict[str, str]]:
                bearer = {"Authorization": f"Bearer {token}"}
                return await gateway.call("GET", path, key=None, headers=bearer)

            assert (await ask(idp.token()))[0] == 200
            assert (await ask(idp.token(), "/v1/audit/events"))[0] == 403
            assert (await ask(idp.token(groups=["*", "tenants:admin"])))[0] == 403
            assert (await ask(idp.token(tenant="acme", scope="*"), "/v1/auth/keys"))[0] == 403
            for wrong in (
                idp.token(aud="other"),
                idp.token(iss=f"{idp.url}/"),
                idp.token(exp=1),
                idp.token(sub="a b"),
            ):
                assert (await ask(wrong))[0] == 401
            assert idp.fetches == ["/.well-known/openid-configuration", "/jwks"]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def fetcher() -> AsyncIterator[Fetcher]:
    made = Fetcher(allow_private=True)
    yield made
    await made.close()


def keys_of(idp: Provider, fetcher: Fetcher, clock: Clock, uri: str | None = None) -> RemoteKeys:
    return RemoteKeys(idp.url, uri, fetcher, now=clock)


async def test_unknown_key_ids_cause_at_most_one_fetch_per_30_s(fetcher: Fetcher) -> None:
    async with provider() as idp:
        clock = Clock()
        keys = keys_of(idp, fetcher, clock)
        assert await keys.find("k1")
        for at in range(90):
            clock.now = at
            for flood in range(20):
                assert await keys.find(f"unknown-{at}-{flood}") is None
        assert idp.fetches.count("/jwks") <= 1 + 90 / UNKNOWN_EVERY_S
        idp.add_key("k2")
        clock.now += UNKNOWN_EVERY_S
        assert await keys.find("k2")


async def test_known_keys_survive_an_hour_without_the_provider_and_not_two_days(
    fetcher: Fetcher,
) -> None:
    async with provider() as idp:
        clock = Clock()
        keys = keys_of(idp, fetcher, clock)
        assert await keys.find("k1")
        idp.is_down = True
        for minute in range(61):
            clock.now = minute * 60.0
            assert await keys.find("k1")
        clock.now = STALE_S + 1
        with pytest.raises(UnavailableError):
            await keys.find("k1")


async def test_keys_are_renewed_in_the_background(fetcher: Fetcher) -> None:
    async with provider() as idp:
        clock = Clock()
        keys = keys_of(idp, fetcher, clock)
        await keys.find("k1")
        idp.keys.clear()
        idp.add_key("k1")
        clock.now = LIFE_S * 0.9
        old = await keys.find("k1")

        async def is_renewed() -> bool:
            return await keys.find("k1") is not old

        await eventually(is_renewed)


async def test_a_configuration_of_another_issuer_and_a_redirect_are_not_followed(
    fetcher: Fetcher,
) -> None:
    async with provider() as idp:
        idp.claimed_issuer = "https://other.example"
        with pytest.raises(UnavailableError):
            await keys_of(idp, fetcher, Clock()).find("k1")
        with pytest.raises(UnavailableError):
            await keys_of(idp, fetcher, Clock(), f"{idp.url}/redirect").find("k1")
        assert "/jwks" not in idp.fetches


@pytest.mark.parametrize(
    "url",
    [
        "http://issuer.example/jwks",
        "https://user:pw@issuer.example/jwks",
        "https://127.0.0.1/jwks",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/jwks",
        "https://[::ffff:10.0.0.1]/jwks",
        "https://[fd00::1]/jwks",
        "https://10.1.2.3/jwks",
        "file:///etc/passwd",
    ],
)
async def test_private_addresses_are_not_fetched(url: str) -> None:
    with pytest.raises(UnsafeAddressError):
        await Fetcher(allow_private=False).json(url)


async def test_a_name_that_points_inside_is_not_connected_to() -> None:
    resolver = PublicResolver()
    with pytest.raises(OSError, match="public"):
        await resolver.resolve("localhost", 443)
    await resolver.close()


@pytest.mark.parametrize(
    ("address", "expected"),
    [("8.8.8.8", True), ("2606:4700::1", True), ("::ffff:127.0.0.1", False), ("224.0.0.1", False)],
)
def test_public_addresses(address: str, expected: bool) -> None:
    assert is_public(address) is expected
