"""Verification of JSON Web Tokens: our own, and those of the issuers that settings name.

The issuer decides the algorithms, and each algorithm takes one kind of key, so a public key can
never be read as an HMAC secret. Limits come from the API key that a token of ours was issued for,
if it is known; a revoked key, family or token id ends it within the polling interval.
"""

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

import jwt

from libs.common.context import Caller
from libs.common.errors import UnavailableError
from services.gateway.domain import claims as checks
from services.gateway.domain.claims import ClaimError, Issuer
from services.gateway.domain.ports import Credential, KeyStore


class KeySource(Protocol):
    """Finds a verification key by its id. Raises UnavailableError when nothing is known yet."""

    async def find(self, kid: str) -> Any | None:
        """Give the key, or None when the issuer has no such key."""
        ...


class TokenVerifier:
    """Turns a token into a Credential; ClaimError says why not."""

    def __init__(
        self,
        issuers: Mapping[str, tuple[Issuer, KeySource]],
        own: str,
        store: KeyStore,
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._issuers = issuers
        self._own = own
        self._store = store
        self._wall = wall
        self._revoked: dict[str, float] = {}

    def revoke(self, marks: set[str], kept_s: float) -> None:
        """Take over families and token ids that no longer hold."""
        now = time.monotonic()
        if len(self._revoked) > 10_000:
            self._revoked = {mark: until for mark, until in self._revoked.items() if until > now}
        for mark in marks:
            self._revoked[mark] = now + kept_s

    def is_revoked(self, credential: Credential) -> bool:
        """Say whether a verified credential was revoked since."""
        return any(mark in self._revoked for mark in credential.marks)

    async def verify(self, token: str) -> Credential:
        """Verify a token.

        Raises:
            ClaimError: it does not verify, has expired, or names what we do not accept.
            UnavailableError: the keys of its issuer are not known yet.
        """
        header, unverified = checks.unverified(token)
        entry = self._issuers.get(str(unverified.get("iss")))
        if entry is None:
            raise ClaimError("issuer")
        issuer, source = entry
        kid = checks.check_header(header, issuer)
        key = await source.find(kid)
        if key is None:
            raise ClaimError("key_id")
        claims = self._decoded(token, key, issuer)
        credential = await self._credential(claims, issuer)
        if self.is_revoked(credential):
            raise ClaimError("revoked")
        return credential

    @staticmethod
    def _decoded(token: str, key: Any, issuer: Issuer) -> dict[str, Any]:
        try:
            decoded: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=list(issuer.algorithms),
                audience=issuer.audience,
                issuer=issuer.issuer,
                leeway=checks.LEEWAY_S,
                options={"require": ["iss", "aud", "exp", "sub"]},
            )
        except jwt.ExpiredSignatureError:
            raise ClaimError("expired") from None
        except jwt.InvalidAudienceError:
            raise ClaimError("audience") from None
        except jwt.InvalidSignatureError:
            raise ClaimError("signature") from None
        except (jwt.PyJWTError, ValueError, TypeError):
            raise ClaimError("claims") from None
        return decoded

    async def _credential(self, claims: dict[str, Any], issuer: Issuer) -> Credential:
        subject = checks.subject_of(claims)
        scopes = checks.scopes_of(claims, issuer)
        expires = float(claims["exp"])
        if issuer.issuer != self._own:
            # The issuer's name keeps two issuers' subjects apart.
            prefix = hashlib.sha256(issuer.issuer.encode()).hexdigest()[:8]
            caller = Caller(str(issuer.tenant), f"oidc:{prefix}:{subject}", scopes)
            return Credential(f"oidc:{prefix}", caller, expires_at=expires)
        tenant, client = claims.get("tenant"), claims.get("client_id")
        if not isinstance(tenant, str) or not isinstance(client, str):
            raise ClaimError("claims")
        marks = tuple(str(claims[name]) for name in ("fam", "jti") if name in claims)
        caller = Caller(tenant, subject, scopes)
        return await self._with_limits(Credential(client, caller, expires_at=expires, marks=marks))

    async def _with_limits(self, credential: Credential) -> Credential:
        """Add the limits of the client's API key; with the store down the defaults hold."""
        if credential.caller.principal.startswith("user:"):
            return credential
        try:
            stored = await self._store.find(credential.key_id)
        except UnavailableError:
            return credential
        if stored is None or stored.revoked:
            raise ClaimError("revoked")
        key = stored.credential
        return replace(
            credential,
            requests_max=key.requests_max,
            window_s=key.window_s,
            burst=key.burst,
            concurrency_max=key.concurrency_max,
            exempt_ip=key.exempt_ip,
            exempt_routes=key.exempt_routes,
        )
