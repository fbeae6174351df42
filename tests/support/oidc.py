"""A small real OpenID provider: configuration, key set, tokens of its making; counts fetches."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.fake_upstream import Received, fake_upstream, reply


@dataclass
class Provider:
    """Signs what it is told to; `is_down` makes it answer 503."""

    url: str = ""
    keys: dict[str, rsa.RSAPrivateKey] = field(default_factory=dict)
    fetches: list[str] = field(default_factory=list)
    is_down: bool = False
    claimed_issuer: str | None = None

    def add_key(self, kid: str) -> None:
        self.keys[kid] = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def token(self, kid: str = "k1", **claims: Any) -> str:
        """Give a token that is right but for what `claims` say."""
        now = int(time.time())
        whole = {
            "iss": self.url, "aud": "gatehouse", "sub": "ada", "iat": now, "exp": now + 60,
            "groups": ["ml"], **claims,
        }  # fmt: skip
        return jwt.encode(whole, self.keys[kid], "RS256", headers={"typ": "at+jwt", "kid": kid})

    def jwks(self) -> dict[str, Any]:
        made = []
        for kid, key in self.keys.items():
            entry = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key()))
            made.append({**entry, "kid": kid, "use": "sig", "alg": "RS256"})
        return {"keys": made}


@asynccontextmanager
async def provider() -> AsyncIterator[Provider]:
    """Run a provider for the length of a block."""
    made = Provider()
    made.add_key("k1")

    async def answer(request: Received, writer: asyncio.StreamWriter) -> None:
        made.fetches.append(request.target)
        if made.is_down:
            await reply(writer, b"", status="503 Down")
        elif request.target == "/jwks":
            await reply(writer, json.dumps(made.jwks()).encode())
        elif request.target == "/redirect":
            await reply(writer, b"", status="302 Found", headers=(("Location", "/jwks"),))
        else:
            issuer = made.claimed_issuer or made.url
            document = {"issuer": issuer, "jwks_uri": f"{made.url}/jwks"}
            await reply(writer, json.dumps(document).encode())

    async with fake_upstream(answer) as server:
        made.url = server.url
        yield made
