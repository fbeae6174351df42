"""Settings of the gateway."""

from pathlib import Path
from typing import ClassVar

from pydantic import SecretStr

from libs.common.settings import CommaList, ServiceSettings, env


class GatewaySettings(ServiceSettings):
    """What the gateway reads beyond the common settings."""

    service: ClassVar[str] = "gateway"

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
