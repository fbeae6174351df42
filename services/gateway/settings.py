"""Settings of the gateway."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from libs.common.settings import CommaList, ServiceSettings, Url, env


class OidcIssuer(BaseModel):
    """One external issuer: what it is believed, and what its tokens may grant."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    issuer: str = Field(min_length=8, max_length=300)
    audience: str = Field(min_length=1, max_length=300)
    tenant: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")
    algorithms: tuple[Literal["RS256", "EdDSA", "ES256"], ...] = ("RS256",)
    typ: Literal["JWT", "at+jwt"] = "at+jwt"
    scope_claim: str = "scope"
    scope_map: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    jwks_uri: str | None = None


def _from_json(value: object) -> object:
    return tuple(orjson.loads(value)) if isinstance(value, str) else value


OidcIssuers = Annotated[tuple[OidcIssuer, ...], BeforeValidator(_from_json)]


class GatewaySettings(ServiceSettings):
    """What the gateway reads beyond the common settings."""

    service: ClassVar[str] = "gateway"
    # Its statements touch few rows, and somebody waits at the door.
    statement_timeout_s: ClassVar[float] = 5.0

    port: int = env(
        "PORT",
        "API_PORT",
        default=0,
        ge=0,
        le=65535,
        description="Listening port; 0 means the catalogue's. API_PORT is the public alias.",
    )
    pepper: SecretStr | None = env(
        "KEY_PEPPER",
        default=None,
        description="Secret that keys the digests of API keys; default a 0600 file in STATE_DIR.",
    )
    ready_file: Path | None = env(
        "READY_FILE",
        default=None,
        description="The gateway is not ready until this file exists (the runner writes it after "
        "the seed).",
    )
    rate_limit_requests: int = env(
        "RATE_LIMIT_REQUESTS",
        default=100,
        ge=1,
        le=100_000_000,
        description="Requests of one API key per window; a key's own limit wins.",
    )
    rate_limit_window_s: int = env(
        "RATE_LIMIT_WINDOW",
        default=60,
        ge=1,
        le=86_400,
        description="Seconds of the per-key window.",
    )
    rate_limit_burst: int = env(
        "RATE_LIMIT_BURST",
        default=0,
        ge=0,
        description="Requests of one key that may come at once; 0 means RATE_LIMIT_REQUESTS. Any "
        "window admits at most burst + requests.",
    )
    ip_limit_requests: int = env(
        "IP_LIMIT_REQUESTS",
        default=60,
        ge=1,
        le=10_000,
        description="Requests of one address (IPv6: one /64) per window, counted in PostgreSQL.",
    )
    ip_limit_window_s: int = env(
        "IP_LIMIT_WINDOW", default=60, ge=1, le=3_600, description="Seconds of that window."
    )
    ip_burst_per_s: int = env(
        "IP_BURST_PER_S",
        default=20,
        ge=1,
        description="Requests of one address per second that this process lets pass to "
        "authentication.",
    )
    key_concurrency_max: int = env(
        "KEY_CONCURRENCY_MAX",
        default=100,
        ge=1,
        description="Requests of one principal in flight at once, unless its key says otherwise.",
    )
    replicas: int = env(
        "GATEWAY_REPLICAS",
        default=1,
        ge=1,
        description="Gateway processes; local limits are divided by it while a store is down.",
    )
    forwarded_hops: int = env(
        "FORWARDED_HOPS",
        default=0,
        ge=0,
        le=10,
        description="Trusted proxies in front; the client is that many hops from the right of "
        "X-Forwarded-For. 0 ignores the header.",
    )
    trusted_cidrs: CommaList = env(
        "TRUSTED_CIDRS",
        default=("127.0.0.0/8", "::1/128"),
        description="Networks whose traceparent is followed; others get a trace of their own.",
    )
    auth_cache_s: float = env(
        "AUTH_CACHE_S",
        default=30.0,
        gt=0,
        le=300,
        description="Seconds a verified credential is believed without asking PostgreSQL.",
    )
    auth_stale_s: float = env(
        "AUTH_STALE_S",
        default=600.0,
        ge=0,
        le=3_600,
        description="Seconds a verified credential stays valid while PostgreSQL is down.",
    )
    upstream_connections_max: int = env(
        "UPSTREAM_CONNECTIONS_MAX",
        default=1_024,
        ge=1,
        description="Connections to one service at most.",
    )
    hedge_after_ms: int = env(
        "HEDGE_AFTER_MS",
        default=0,
        ge=0,
        le=60_000,
        description="Milliseconds after which a GET is asked of a second instance as well, out of "
        "the retry budget; 0 switches it off.",
    )
    stream_idle_s: float = env(
        "STREAM_IDLE_S",
        default=60.0,
        gt=0,
        description="Seconds a started answer may pause before it is cut.",
    )
    body_receipt_s: float = env(
        "BODY_RECEIPT_S",
        default=30.0,
        gt=0,
        description="Seconds a caller has to send a whole body; then 408.",
    )
    header_receipt_s: float = env(
        "HEADER_RECEIPT_S",
        default=10.0,
        gt=0,
        description="Seconds a caller has to send a whole head; then 408.",
    )
    platform_tenant: str = env(
        "PLATFORM_TENANT",
        default="default",
        description="The tenant whose administrators make tenants and set their quotas.",
    )
    token_issuer: str = env(
        "TOKEN_ISSUER", default="gatehouse", description="`iss` of the tokens issued here."
    )
    token_audience: str = env(
        "TOKEN_AUDIENCE", default="gatehouse", description="`aud` of the tokens issued here."
    )
    token_life_s: int = env(
        "TOKEN_LIFE_S", default=300, ge=30, le=3_600, description="Seconds an access token lives."
    )
    token_key_rotation_s: float = env(
        "TOKEN_KEY_ROTATION_S",
        default=30 * 86_400.0,
        ge=60,
        description="Seconds after which tokens are signed with a new key.",
    )
    refresh_idle_s: float = env(
        "REFRESH_IDLE_S",
        default=7 * 86_400.0,
        gt=0,
        description="Seconds a refresh token may lie unused.",
    )
    refresh_life_s: float = env(
        "REFRESH_LIFE_S",
        default=30 * 86_400.0,
        gt=0,
        description="Seconds after which a login must be repeated.",
    )
    oidc_issuers: OidcIssuers = env(
        "OIDC_ISSUERS",
        default=(),
        description="External issuers as a JSON list of {issuer, audience, tenant, algorithms, "
        "typ, scope_claim, scope_map, jwks_uri}; tokens of others are refused.",
    )
    allowed_hosts: CommaList = env(
        "ALLOWED_HOSTS",
        default=(),
        description="Values of Host that are answered, as sent; empty: any. Nothing is built from "
        "Host but X-Forwarded-Host.",
    )
    cors_origins: CommaList = env(
        "CORS_ORIGINS",
        default=(),
        description="Origins whose pages may call the API with their own credentials; empty: none.",
    )
    console_traces_url: Url | None = env(
        "CONSOLE_TRACES_URL",
        default=None,
        description="Where the console reads the spans of a request (GET /traces/{trace_id}); the "
        "local runner sets it to its own receiver.",
    )
    console_trace_link: str | None = env(
        "CONSOLE_TRACE_LINK",
        default=None,
        pattern=r"^https?://\S*\{trace_id\}\S*$",
        description="Address of a trace for people, such as "
        "http://localhost:16686/trace/{trace_id}; the console links to it.",
    )
    tls_cert: Path | None = env(
        "TLS_CERT", default=None, description="PEM certificate chain; with TLS_KEY serves https."
    )
    tls_key: Path | None = env("TLS_KEY", default=None, description="PEM private key of TLS_CERT.")
