"""Everything that says who calls, built from one set of settings."""

from dataclasses import dataclass

from libs.common.platform import Platform
from services.gateway.adapters.authenticator import Authenticator
from services.gateway.adapters.jwks import Fetcher, RemoteKeys
from services.gateway.adapters.key_store import PostgresKeyStore
from services.gateway.adapters.secrets import load_pepper
from services.gateway.adapters.security_events import SecurityEvents
from services.gateway.adapters.token_desk import TokenDesk
from services.gateway.adapters.token_keys import TokenKeys
from services.gateway.adapters.token_store import TokenStore
from services.gateway.adapters.token_verifier import KeySource, TokenVerifier
from services.gateway.domain.claims import ACCESS_TYPE, Issuer
from services.gateway.settings import GatewaySettings


@dataclass(frozen=True)
class Identity:
    """Keys, tokens and the issuers we believe."""

    pepper: bytes
    keys: PostgresKeyStore
    authenticator: Authenticator
    tokens: TokenStore
    token_keys: TokenKeys
    verifier: TokenVerifier
    desk: TokenDesk
    fetcher: Fetcher
    token_life_s: float

    async def learn_revocations(self, seconds: float) -> None:
        """Take over what was revoked within the last `seconds`, on any replica."""
        revoked = await self.keys.revoked_lately(seconds)
        if revoked:
            self.authenticator.forget(set(revoked))
        self.verifier.revoke(await self.tokens.revoked_lately(seconds), self.token_life_s + 60)

    async def note_use(self) -> None:
        """Write when keys were used last; exact to the minute."""
        used = self.authenticator.used_lately()
        if used:
            await self.keys.touched(sorted(used))


def _external_issuers(
    settings: GatewaySettings, fetcher: Fetcher
) -> dict[str, tuple[Issuer, KeySource]]:
    """Give the issuers that the settings name, with where their keys come from."""
    return {
        entry.issuer: (
            Issuer(
                entry.issuer,
                entry.audience,
                entry.algorithms,
                entry.typ,
                entry.tenant,
                entry.scope_claim,
                entry.scope_map,
            ),
            RemoteKeys(entry.issuer, entry.jwks_uri, fetcher),
        )
        for entry in settings.oidc_issuers
    }


def open_identity(
    platform: Platform, settings: GatewaySettings, events: SecurityEvents
) -> Identity:
    """Build it; nothing connects before first use."""
    pepper = load_pepper(settings)
    keys = PostgresKeyStore(platform.postgres)
    tokens = TokenStore(platform.postgres)
    token_keys = TokenKeys(
        platform.postgres,
        pepper,
        rotation_s=settings.token_key_rotation_s,
        token_life_s=settings.token_life_s,
    )
    fetcher = Fetcher(allow_private=settings.environment == "development")
    own = Issuer(settings.token_issuer, settings.token_audience, ("EdDSA",), ACCESS_TYPE)
    issuers = {**_external_issuers(settings, fetcher), own.issuer: (own, token_keys)}
    verifier = TokenVerifier(issuers, own.issuer, keys)
    authenticator = Authenticator(
        keys, pepper, fresh_s=settings.auth_cache_s, stale_s=settings.auth_stale_s, tokens=verifier
    )
    desk = TokenDesk(
        tokens,
        token_keys,
        authenticator,
        verifier,
        events,
        pepper,
        issuer=own.issuer,
        audience=own.audience,
        life_s=settings.token_life_s,
        refresh_idle_s=settings.refresh_idle_s,
        refresh_life_s=settings.refresh_life_s,
    )
    return Identity(
        pepper,
        keys,
        authenticator,
        tokens,
        token_keys,
        verifier,
        desk,
        fetcher,
        settings.token_life_s,
    )
