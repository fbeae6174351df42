"""Settings of analytics."""

from typing import ClassVar

from pydantic import SecretStr

from libs.common.settings import CommaList, ServiceSettings, Url, env


class AnalyticsSettings(ServiceSettings):
    """What analytics reads from the environment."""

    service: ClassVar[str] = "analytics"

    tail_batch: int = env(
        "ANALYTICS_TAIL_BATCH",
        default=5_000,
        ge=1,
        le=5_000,
        description="Log entries read and added per transaction at most.",
    )
    tail_poll_s: float = env(
        "ANALYTICS_TAIL_POLL_S",
        default=0.25,
        gt=0,
        le=60,
        description="Seconds between looks at the end of the audit log.",
    )
    gemini_api_key: SecretStr | None = env(
        "GEMINI_API_KEY",
        default=None,
        description="Key for Gemini; without one every report is written by rules.",
    )
    gemini_model: str = env(
        "GEMINI_MODEL",
        default="gemini-2.5-flash-lite",
        pattern=r"^[A-Za-z0-9._-]{1,100}$",
        description="Gemini model that writes the reports.",
    )
    gemini_base_url: Url = env(
        "GEMINI_BASE_URL",
        default="https://generativelanguage.googleapis.com",
        description="Where the Gemini API answers.",
    )
    gemini_temperature: float = env(
        "GEMINI_TEMPERATURE", default=0.3, ge=0, le=2, description="Sampling temperature."
    )
    gemini_max_tokens: int = env(
        "GEMINI_MAX_TOKENS",
        default=1024,
        ge=64,
        le=65_536,
        description="Tokens of an answer at most; a cut answer is replaced by the rules' report.",
    )
    gemini_timeout_s: float = env(
        "GEMINI_TIMEOUT_S",
        default=10.0,
        gt=0,
        le=120,
        description="Seconds one attempt may take.",
    )
    gemini_rate_limit: int = env(
        "GEMINI_RATE_LIMIT",
        default=10,
        ge=0,
        le=10_000,
        description="Attempts per minute over all replicas, retries included; 0 means rules only.",
    )
    gemini_cache_ttl_s: int = env(
        "GEMINI_CACHE_TTL",
        default=300,
        ge=1,
        le=86_400,
        description="Seconds a report by Gemini is reused.",
    )
    gemini_fallback_ttl_s: int = env(
        "GEMINI_FALLBACK_TTL",
        default=20,
        ge=1,
        le=300,
        description="Seconds a report by rules is reused after Gemini failed.",
    )
    gemini_prompt_usd: float = env(
        "GEMINI_PROMPT_USD_PER_MILLION",
        default=0.0,
        ge=0,
        le=10_000,
        description="Price of a million prompt tokens, for the cost metric; 0 counts none.",
    )
    gemini_answer_usd: float = env(
        "GEMINI_ANSWER_USD_PER_MILLION",
        default=0.0,
        ge=0,
        le=10_000,
        description="Price of a million answer tokens, for the cost metric; 0 counts none.",
    )
    replicas: int = env(
        "ANALYTICS_REPLICAS",
        default=1,
        ge=1,
        le=1_000,
        description="Replicas that share the Gemini quota while Redis is away.",
    )
    webhook_secret: SecretStr | None = env(
        "ANALYTICS_WEBHOOK_SECRET",
        default=None,
        min_length=16,
        description="Master secret of the webhook signatures; without one no webhook can be set.",
    )
    webhook_origins: CommaList = env(
        "ANALYTICS_WEBHOOK_ORIGINS",
        default=(),
        description="Origins that webhooks may go to (https://host[:port], comma separated).",
    )
    webhook_private_origins: CommaList = env(
        "ANALYTICS_WEBHOOK_PRIVATE_ORIGINS",
        default=(),
        description="Further origins, which may be http and lie in a private network.",
    )
    minutes_kept_days: int = env(
        "ANALYTICS_MINUTES_KEPT_DAYS",
        default=62,
        ge=62,
        le=3_660,
        description="Days that roll-ups per minute are kept; whole months are dropped after them.",
    )
    hours_kept_days: int = env(
        "ANALYTICS_HOURS_KEPT_DAYS",
        default=400,
        ge=62,
        le=36_600,
        description="Days that roll-ups per hour are kept.",
    )
