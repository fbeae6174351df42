"""Wire models of the gateway's own endpoints."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr

_SCOPE = r"^(\*|[a-z][a-z0-9-]*:(\*|[A-Za-z0-9._-]+))$"
Scope = Annotated[StrictStr, Field(pattern=_SCOPE, max_length=80)]


class KeyLimits(BaseModel):
    """Limits that a key carries itself; what is absent is the default."""

    model_config = ConfigDict(extra="forbid")

    requests_max: StrictInt | None = Field(None, ge=1, le=100_000_000)
    window_s: StrictInt | None = Field(None, ge=1, le=86_400)
    burst: StrictInt | None = Field(None, ge=1, le=100_000_000)
    concurrency_max: StrictInt | None = Field(None, ge=1, le=100_000)


class KeyRequest(BaseModel):
    """What to make a key with."""

    model_config = ConfigDict(extra="forbid")

    name: StrictStr = Field(min_length=1, max_length=100, pattern=r"^[\w .@:/-]+$")
    scopes: list[Scope] = Field(min_length=1, max_length=64)
    expires_in_s: StrictInt | None = Field(None, ge=60, le=10 * 365 * 86_400)
    limits: KeyLimits = Field(default_factory=KeyLimits)
    exempt_ip: StrictBool = False
    exempt_routes: StrictBool = False


class KeyView(BaseModel):
    """A key as shown: never its secret, never its digest."""

    key_id: str
    tenant: str
    principal: str
    name: str
    scopes: list[str]
    limits: KeyLimits
    exempt_ip: bool
    exempt_routes: bool
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class NewKeyView(KeyView):
    """A key just made; `key` is its text, shown this once."""

    key: str


class KeyPage(BaseModel):
    """A page of keys, newest first."""

    items: list[KeyView]
    next: str | None
