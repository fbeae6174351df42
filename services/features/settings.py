"""Settings of the features service."""

from typing import ClassVar

from libs.common.settings import ServiceSettings, env


class FeaturesSettings(ServiceSettings):
    """What the features service reads besides the common settings."""

    service: ClassVar[str] = "features"

    events_max: int = env(
        "FEATURES_EVENTS_MAX",
        default=5_000,
        ge=1,
        le=50_000,
        description="Events in one request at most.",
    )
    poll_ms: int = env(
        "FEATURES_POLL_MS",
        default=200,
        ge=10,
        le=10_000,
        description="How often the applier looks for new events when nobody wakes it.",
    )
    apply_batch: int = env(
        "FEATURES_APPLY_BATCH",
        default=2_000,
        ge=1,
        le=20_000,
        description="Log rows of one partition applied per round at most.",
    )
    lag_max: int = env(
        "FEATURES_LAG_MAX",
        default=1_000_000,
        ge=1,
        description="Log rows that the rings may be behind before new events are refused (503).",
    )
    ingest_concurrency_max: int = env(
        "FEATURES_INGEST_CONCURRENCY_MAX",
        default=8,
        ge=1,
        le=256,
        description="Batches written at once; further ones are refused with 429.",
    )
    stream: str | None = env(
        "FEATURES_STREAM",
        default=None,
        description="Redis Stream whose entries (field `event`, JSON) are ingested; off if unset.",
    )
    stream_tenant: str = env(
        "FEATURES_STREAM_TENANT",
        default="default",
        description="Tenant that the events of FEATURES_STREAM belong to.",
    )
    kafka_servers: str | None = env(
        "FEATURES_KAFKA_SERVERS",
        default=None,
        description="Kafka brokers (host:port, comma separated) to ingest from; off if unset.",
    )
    kafka_topic: str = env(
        "FEATURES_KAFKA_TOPIC",
        default="features",
        description="Kafka topic whose messages (one JSON event each) are ingested.",
    )
    kafka_tenant: str = env(
        "FEATURES_KAFKA_TENANT",
        default="default",
        description="Tenant that the events of FEATURES_KAFKA_TOPIC belong to.",
    )
    parity_every_s: float = env(
        "FEATURES_PARITY_EVERY_S",
        default=30.0,
        gt=0,
        le=86_400,
        description="Seconds between comparisons of served vectors with history.",
    )
