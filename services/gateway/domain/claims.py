"""Checks of a JSON Web Token that need no key: form, headers, who issued it, what it grants.

Signatures are the adapter's work. The algorithm comes from the issuer's configuration, never from
the token; keys named or carried by the token (`jwk`, `jku`, `x5u`, `x5c`) are not looked at.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

TOKEN_BYTES_MAX = 8_192
LEEWAY_S = 30
ACCESS_TYPE = "at+jwt"
_KID = re.compile(r"[A-Za-z0-9._=-]{1,128}")
_SUBJECT = re.compile(r"[A-Za-z0-9._@:|=+-]{1,128}")
# Extensions that a verifier must understand or refuse; we understand none.
_REFUSED_HEADERS = frozenset({"crit", "b64", "zip", "enc"})


class ClaimError(ValueError):
    """The token is not acceptable; the text is a reason from a closed set, for metrics."""


@dataclass(frozen=True, slots=True)
class Issuer:
    """Whom we believe, and what its tokens may grant.

    Attributes:
        issuer: `iss`, byte for byte.
        audience: what `aud` must name.
        algorithms: accepted signature algorithms.
        typ: the exact `typ` header, compared without case.
        tenant: the tenant of all its tokens; None: the token's own claim (our own issuer only).
        scope_claim: where the granted names stand: a list, or a text with blanks between them.
        scope_map: what each name grants; None: names are scopes as they stand (our own only).
    """

    issuer: str
    audience: str
    algorithms: tuple[str, ...]
    typ: str
    tenant: str | None = None
    scope_claim: str = "scope"
    scope_map: Mapping[str, tuple[str, ...]] | None = field(default=None, hash=False)


def looks_like_token(text: str) -> bool:
    """Say whether a credential claims to be a JWT."""
    return text.count(".") == 2 and text.startswith("ey")


def unverified(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read header and claims of a token that nobody has verified yet.

    Raises:
        ClaimError: too large or not a JWT at all.
    """
    if len(token) > TOKEN_BYTES_MAX:
        raise ClaimError("too_large")
    parts = token.split(".")
    if len(parts) != 3:
        raise ClaimError("malformed")
    try:
        header, claims = (orjson.loads(_unb64(part)) for part in parts[:2])
    except (ValueError, binascii.Error):
        raise ClaimError("malformed") from None
    if not isinstance(header, dict) or not isinstance(claims, dict):
        raise ClaimError("malformed")
    return header, claims


def check_header(header: Mapping[str, Any], issuer: Issuer) -> str:
    """Give the key id of an acceptable header.

    Raises:
        ClaimError: algorithm, type, key id or an extension is not acceptable.
    """
    if header.get("alg") not in issuer.algorithms:
        raise ClaimError("algorithm")
    typ = header.get("typ", "JWT" if issuer.typ == "JWT" else "")
    if not isinstance(typ, str) or typ.lower() != issuer.typ.lower():
        raise ClaimError("type")
    if _REFUSED_HEADERS & set(header):
        raise ClaimError("extension")
    kid = header.get("kid")
    if not isinstance(kid, str) or not _KID.fullmatch(kid):
        raise ClaimError("key_id")
    return kid


def subject_of(claims: Mapping[str, Any]) -> str:
    """Give `sub`.

    Raises:
        ClaimError: absent, or not something that may be a principal.
    """
    subject = claims.get("sub")
    if not isinstance(subject, str) or not _SUBJECT.fullmatch(subject):
        raise ClaimError("subject")
    return subject


def scopes_of(claims: Mapping[str, Any], issuer: Issuer) -> frozenset[str]:
    """Give the scopes that the claims grant under the issuer's rules."""
    held = claims.get(issuer.scope_claim, ())
    names: Iterable[str] = (
        held.split()
        if isinstance(held, str)
        else [name for name in held if isinstance(name, str)]
        if isinstance(held, list)
        else ()
    )
    if issuer.scope_map is None:
        return frozenset(names)
    return frozenset(scope for name in names for scope in issuer.scope_map.get(name, ()))


def _unb64(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
