"""Wire models of the gateway's own endpoints."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StrictBool,
    StrictInt,
    StrictStr,
    model_validator,
)

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
    last_used_at: datetime | None = None
    rotated_to: str | None = None


class NewKeyView(KeyView):
    """A key just made; `key` is its text, shown this once."""

    key: str


class KeyPage(BaseModel):
    """A page of keys, newest first."""

    items: list[KeyView]
    next: str | None


class RotationRequest(BaseModel):
    """How a key is rotated."""

    model_config = ConfigDict(extra="forbid")

    overlap_s: StrictInt = Field(
        86_400, ge=0, le=30 * 86_400, description="Seconds for which the old key stays valid."
    )


_NAME = r"^[a-z0-9][a-z0-9_-]{0,62}$"
_TITLE = r"^[\w .,@:/()-]+$"


class GuardSetting(BaseModel):
    """What happens to a tenant's texts before a model sees them."""

    model_config = ConfigDict(extra="forbid")

    mode: Literal["off", "shadow", "enforce"] = "off"
    policy: StrictStr | None = Field(None, pattern="^[a-z0-9]{1,64}$")
    version: StrictInt | None = Field(None, ge=1, le=99_999_999)

    @model_validator(mode="after")
    def _version_needs_policy(self) -> "GuardSetting":
        if self.version is not None and self.policy is None:
            raise ValueError("version needs a policy")
        return self


class TenantLimits(BaseModel):
    """The quota that all keys of a tenant share; absent: none."""

    model_config = ConfigDict(extra="forbid")

    requests_max: StrictInt | None = Field(None, ge=1, le=100_000_000)
    window_s: StrictInt | None = Field(None, ge=1, le=86_400)
    burst: StrictInt | None = Field(None, ge=1, le=100_000_000)


class TenantRequest(BaseModel):
    """A new tenant."""

    model_config = ConfigDict(extra="forbid")

    tenant: StrictStr = Field(pattern=_NAME)
    name: StrictStr = Field(min_length=1, max_length=100, pattern=_TITLE)


class TenantChange(BaseModel):
    """Everything that may change of a tenant, and the generation that it was read at."""

    model_config = ConfigDict(extra="forbid")

    name: StrictStr = Field(min_length=1, max_length=100, pattern=_TITLE)
    guard: GuardSetting = Field(default_factory=GuardSetting)
    limits: TenantLimits = Field(default_factory=TenantLimits)
    erasure_contact: StrictStr = Field("", max_length=200)
    generation: StrictInt = Field(ge=1)


class RoleRequest(BaseModel):
    """A role; generation 0 makes a new one."""

    model_config = ConfigDict(extra="forbid")

    scopes: list[Scope] = Field(min_length=1, max_length=64)
    generation: StrictInt = Field(0, ge=0)


_RoleNames = Annotated[list[Annotated[StrictStr, Field(pattern=_NAME)]], Field(max_length=32)]


class UserRequest(BaseModel):
    """A new person."""

    model_config = ConfigDict(extra="forbid")

    username: StrictStr = Field(pattern=r"^[a-z0-9][a-z0-9._@-]{1,62}$")
    password: SecretStr = Field(min_length=12, max_length=256)
    roles: _RoleNames


class UserChange(BaseModel):
    """Other roles for a person, or an end to their access."""

    model_config = ConfigDict(extra="forbid")

    roles: _RoleNames | None = None
    disabled: StrictBool = False


class DataSubject(BaseModel):
    """Whom the data is about."""

    model_config = ConfigDict(extra="forbid")

    entity: Literal["card", "merchant", "user", "item", "session"]
    id: StrictStr = Field(pattern=r"^[A-Za-z0-9._:@-]{1,128}$")


class ErasureRequest(BaseModel):
    """A data subject to erase."""

    model_config = ConfigDict(extra="forbid")

    data_subject: DataSubject
