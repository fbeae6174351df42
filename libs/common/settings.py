"""Settings: one frozen class per service, read once, every variable documented.

A field names its environment variables with `env(...)`. Lookup order for a service `inference` and
a variable `LOG_LEVEL`: `INFERENCE_LOG_LEVEL`, then `LOG_LEVEL`, then the further aliases in order,
then the default. No other module reads the environment.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from libs.common.catalog import SERVICES

_REQUIRED: Any = ...


def env(*names: str, default: Any = _REQUIRED, description: str, **constraints: Any) -> Any:
    """Declare a settings field.

    Args:
        names: environment variables, the canonical one first, then its aliases.
        default: value when none is set.
        description: the effect, one sentence; it appears in `.env.example` and the docs.
        constraints: pydantic bounds (`ge`, `le`, `pattern`, ...).
    """
    extra: dict[str, Any] = {"env": list(names)}
    return Field(default, description=description, json_schema_extra=extra, **constraints)


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _url(value: str) -> str:
    if "://" not in value:
        raise ValueError("must be a URL such as http://127.0.0.1:8081")
    return value.rstrip("/")


def _urls(value: str) -> str:
    return ",".join(_url(part.strip()) for part in value.split(","))


CommaList = Annotated[tuple[str, ...], BeforeValidator(_split)]
Url = Annotated[str, AfterValidator(_url)]
# One URL per instance of a service, with commas between them.
Urls = Annotated[str, AfterValidator(_urls)]
LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"],
    BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value),
]


class SettingsError(Exception):
    """The environment does not make sense; the text names each variable and what to change."""


class _EnvironmentSource(PydanticBaseSettingsSource):
    """Reads each field's variables from one mapping, the service-prefixed name first."""

    def __init__(self, settings_cls: type[BaseSettings], environ: Mapping[str, str]) -> None:
        super().__init__(settings_cls)
        self._environ = environ

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        prefix = getattr(self.settings_cls, "service", "").upper()
        names = variables_of(field, field_name)
        for name in [f"{prefix}_{name}" for name in names if prefix] + names:
            if self._environ.get(name, "") != "":
                return self._environ[name], field_name, False
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name, field in self.settings_cls.model_fields.items():
            value, key, _ = self.get_field_value(field, name)
            if value is not None:
                values[key] = value
        return values


def variables_of(field: Any, field_name: str) -> list[str]:
    """List the environment variables of a field, canonical first."""
    extra = field.json_schema_extra or {}
    return list(extra.get("env") or [field_name.upper()])


class ServiceSettings(BaseSettings):
    """What every service reads. Subclasses set `service` and add their own fields."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid")
    service: ClassVar[str] = ""
    # Longest wait for one statement: a server that has stopped never says so.
    statement_timeout_s: ClassVar[float] = 30.0

    environment: str = env(
        "GATEHOUSE_ENV", default="development", description="Name of the deployment, for traces."
    )
    host: str = env("BIND_HOST", default="127.0.0.1", description="Address the service listens on.")
    port: int = env(
        "PORT", default=0, ge=0, le=65535, description="Listening port; 0 means the catalogue's."
    )
    log_level: LogLevel = env("LOG_LEVEL", default="info", description="Lowest level written.")
    log_format: Literal["json", "console", "auto"] = env(
        "LOG_FORMAT",
        default="auto",
        description="json for machines, console for people; auto picks by terminal.",
    )
    state_dir: Path = env(
        "STATE_DIR",
        default=Path(".gatehouse"),
        description="Where write-ahead logs, keys and local state live.",
    )
    keys_dir: Path | None = env(
        "KEYS_DIR",
        default=None,
        description="Directory with the services' signing keys; default STATE_DIR/keys.",
    )
    identity_mode: Literal["required", "open"] = env(
        "IDENTITY_MODE",
        default="required",
        description="open accepts calls without a signed identity; refused unless on loopback.",
    )
    postgres_url: SecretStr | None = env(
        "POSTGRES_URL",
        "DATABASE_URL",
        default=None,
        description="PostgreSQL URL; the local runner starts an embedded server when it is empty.",
    )
    postgres_pool_max: int = env(
        "POSTGRES_POOL_MAX", default=8, ge=1, le=100, description="Connections per service at most."
    )
    redis_url: SecretStr | None = env(
        "REDIS_URL",
        default=None,
        description="Redis URL; beats REDIS_HOST, REDIS_PORT, REDIS_DB and REDIS_PASSWORD.",
    )
    redis_host: str | None = env("REDIS_HOST", default=None, description="Redis host.")
    redis_port: int = env("REDIS_PORT", default=6379, ge=1, le=65535, description="Redis port.")
    redis_db: int = env("REDIS_DB", default=0, ge=0, description="Redis database number.")
    redis_password: SecretStr | None = env(
        "REDIS_PASSWORD", default=None, description="Redis password."
    )
    redis_timeout_s: float = env(
        "REDIS_TIMEOUT_S",
        default=0.05,
        gt=0,
        le=5,
        description="Seconds a request waits on Redis at most.",
    )
    otlp_endpoint: Url | None = env(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        default=None,
        description="OTLP/HTTP endpoint for traces (Jaeger takes it on port 4318).",
    )
    jaeger_agent_host: str | None = env(
        "JAEGER_AGENT_HOST",
        default=None,
        description="Accepted for compatibility: without an OTLP endpoint, http://HOST:4318.",
    )
    jaeger_agent_port: int = env(
        "JAEGER_AGENT_PORT",
        default=6831,
        description="Accepted for compatibility and ignored: the agent protocol is gone.",
    )
    traces_exporter: Literal["otlp", "jaeger", "none"] = env(
        "OTEL_TRACES_EXPORTER", default="otlp", description="jaeger is an alias of otlp."
    )
    trace_ratio: float = env(
        "TRACE_RATIO",
        "OTEL_TRACES_SAMPLER_ARG",
        default=0.1,
        ge=0,
        le=1,
        description="Share of new traces that are recorded.",
    )
    drain_s: float = env(
        "DRAIN_S",
        default=0.5,
        ge=0,
        description="Seconds a stopping service keeps serving after it turned not ready.",
    )
    shutdown_s: float = env(
        "SHUTDOWN_S", default=20.0, ge=0, description="Seconds in-flight requests get to finish."
    )
    gateway_url: Url = env(
        "GATEWAY_URL", default="http://127.0.0.1:8080", description="Where the gateway answers."
    )
    inference_url: Urls = env(
        "INFERENCE_URL",
        default="http://127.0.0.1:8081",
        description="Where inference answers; commas between several instances.",
    )
    guardrails_url: Urls = env(
        "GUARDRAILS_URL",
        default="http://127.0.0.1:8082",
        description="Where guardrails answers; commas between several instances.",
    )
    features_url: Urls = env(
        "FEATURES_URL",
        default="http://127.0.0.1:8083",
        description="Where features answers; commas between several instances.",
    )
    analytics_url: Urls = env(
        "ANALYTICS_URL",
        default="http://127.0.0.1:8084",
        description="Where analytics answers; commas between several instances.",
    )
    audit_url: Urls = env(
        "AUDIT_URL",
        default="http://127.0.0.1:8085",
        description="Where audit answers; commas between several instances.",
    )
    wal_max_bytes: int = env(
        "WAL_MAX_BYTES",
        default=1 << 30,
        ge=1 << 16,
        description="Bytes of undelivered events a process keeps before it refuses work.",
    )
    wal_max_events: int = env(
        "WAL_MAX_EVENTS",
        default=1_000_000,
        ge=100,
        description="Undelivered events a process keeps before it refuses work.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read explicit arguments first, then our own environment lookup."""
        return init_settings, _EnvironmentSource(settings_cls, os.environ)

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Read the settings, or say in one text which variable to change.

        Raises:
            SettingsError: a variable has a wrong value or two contradict each other.
        """
        try:
            return cls(**overrides)
        except ValidationError as error:
            lines = [f"{cls.service or 'service'}: the settings do not make sense"]
            for item in error.errors():
                name = str(item["loc"][0]) if item["loc"] else ""
                field = cls.model_fields.get(name)
                variable = variables_of(field, name)[0] if field else name or "settings"
                lines.append(f"  {variable}: {item['msg']}")
            raise SettingsError("\n".join(lines)) from None

    @property
    def listen_port(self) -> int:
        """The port to listen on: the setting, or the catalogue's."""
        return self.port or SERVICES[self.service].port

    @property
    def keys_path(self) -> Path:
        """The directory of the services' keys."""
        return self.keys_dir or self.state_dir / "keys"

    @property
    def redis_dsn(self) -> str | None:
        """The Redis URL that counts: REDIS_URL, else built from host, port, db and password."""
        if self.redis_url:
            return self.redis_url.get_secret_value()
        if not self.redis_host:
            return None
        secret = f":{self.redis_password.get_secret_value()}@" if self.redis_password else ""
        return f"redis://{secret}{self.redis_host}:{self.redis_port}/{self.redis_db}"

    @property
    def trace_endpoint(self) -> str | None:
        """Where spans go, or None when tracing is off."""
        if self.traces_exporter == "none":
            return None
        if self.otlp_endpoint:
            return self.otlp_endpoint
        return f"http://{self.jaeger_agent_host}:4318" if self.jaeger_agent_host else None

    def url_of(self, service: str) -> str:
        """Give the base URL of another service, of its first instance when several are listed."""
        return self.urls_of(service)[0]

    def urls_of(self, service: str) -> tuple[str, ...]:
        """Give the base URLs of the instances of another service, at least one."""
        return tuple(str(getattr(self, f"{service}_url")).split(","))

    def effective(self) -> list[dict[str, Any]]:
        """List each setting with variable, value and source; secrets are masked."""
        rows = []
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            shown = "********" if isinstance(value, SecretStr) else value
            rows.append(
                {
                    "variable": variables_of(field, name)[0],
                    "value": shown if isinstance(shown, int | float | bool) else str(shown),
                    "source": "set" if name in self.model_fields_set else "default",
                    "effect": field.description,
                }
            )
        return rows
