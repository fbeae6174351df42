"""Settings of guardrails."""

from pathlib import Path
from typing import ClassVar

from pydantic import SecretStr

from libs.common.settings import ServiceSettings, env


class GuardrailsSettings(ServiceSettings):
    """What guardrails reads beyond the shared settings."""

    service: ClassVar[str] = "guardrails"

    cache_default_ttl_s: int = env(
        "CACHE_DEFAULT_TTL",
        default=300,
        ge=0,
        le=86_400,
        description="Seconds a verdict is remembered when the request does not say; 0 is never.",
    )
    text_chars_max: int = env(
        "TEXT_CHARS_MAX",
        default=262_144,
        ge=1,
        le=2_000_000,
        description="Longest text of one check, in characters; longer ones use the stream.",
    )
    guard_model: str = env(
        "GUARD_MODEL",
        default="guard",
        pattern="^[A-Za-z0-9._-]{1,64}$",
        description="Model in inference that scores toxicity and injection.",
    )
    entity_model: str = env(
        "ENTITY_MODEL",
        default="entities",
        pattern="^[A-Za-z0-9._-]{1,64}$",
        description="Model in inference that finds names, places, organisations and addresses.",
    )
    secret: SecretStr | None = env(
        "GUARDRAILS_SECRET",
        default=None,
        description="Hexadecimal secret of 32 bytes or more behind pseudonyms, encryption and "
        "cache keys; all replicas share it. Without it a file under the state directory holds one.",
    )
    floor: Path | None = env(
        "GUARDRAILS_FLOOR",
        default=None,
        description="JSON file of a policy body; every tenant's policy is at least as strict.",
    )
    plugins_path: Path | None = env(
        "PLUGINS_PATH",
        default=None,
        description="Folder of plug-ins, <name>/<version>/manifest.json with the code beside it.",
    )
    plugin_memory_mib: int = env(
        "PLUGIN_MEMORY_MIB",
        default=256,
        ge=64,
        le=65_536,
        description="Address space of one plug-in process.",
    )
    pattern_threads: int = env(
        "PATTERN_THREADS",
        default=2,
        ge=1,
        le=64,
        description="Threads that match patterns over texts larger than 2 kB.",
    )
    memory_warn_mib: int = env(
        "MEMORY_WARN_MIB",
        default=384,
        ge=64,
        le=65_536,
        description="Resident MiB above which /v1/guardrails/health calls memory high.",
    )
    cpu_warn_cores: float = env(
        "CPU_WARN_CORES",
        default=0.9,
        gt=0,
        le=64,
        description="Cores in use above which /v1/guardrails/health calls the CPU high.",
    )
    max_concurrent_requests: int = env(
        "MAX_CONCURRENT_REQUESTS",
        default=100,
        ge=1,
        le=10_000,
        description="Checks that run at once; a further one is answered 503 with Retry-After.",
    )
