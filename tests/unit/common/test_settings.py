"""Settings: precedence of names, units, secrets, errors that name the variable."""

from typing import ClassVar

import pytest
from pydantic import SecretStr

from libs.common.settings import ServiceSettings, SettingsError, env


class InferenceLike(ServiceSettings):
    service: ClassVar[str] = "inference"

    cache_ttl_s: int = env("CACHE_TTL", default=3600, ge=0, description="Seconds.")


def test_the_prefixed_name_wins_over_the_bare_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_LEVEL", "ERROR")
    monkeypatch.setenv("INFERENCE_LOG_LEVEL", "debug")
    assert InferenceLike.load().log_level == "debug"


def test_an_alias_counts_when_the_canonical_name_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://db")
    secret = InferenceLike.load().postgres_url
    assert secret is not None
    assert secret.get_secret_value() == "postgresql://db"


def test_an_empty_variable_means_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_TTL", "")
    assert InferenceLike.load().cache_ttl_s == 3600


def test_a_wrong_value_names_the_variable_and_not_the_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CACHE_TTL", "s3cret")
    with pytest.raises(SettingsError, match="CACHE_TTL") as caught:
        InferenceLike.load()
    assert "s3cret" not in str(caught.value)


def test_redis_url_beats_host_and_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_HOST", "cache")
    monkeypatch.setenv("REDIS_PASSWORD", "pw")
    assert InferenceLike.load().redis_dsn == "redis://:pw@cache:6379/0"
    monkeypatch.setenv("REDIS_URL", "redis://other:1/2")
    assert InferenceLike.load().redis_dsn == "redis://other:1/2"


def test_the_jaeger_host_means_its_otlp_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAEGER_AGENT_HOST", "jaeger")
    assert InferenceLike.load().trace_endpoint == "http://jaeger:4318"


def test_settings_do_not_change_once_read() -> None:
    with pytest.raises(ValueError, match="frozen"):
        InferenceLike.load().port = 1  # type: ignore[misc] # the point of the test


def test_effective_settings_mask_secrets() -> None:
    rows = InferenceLike.load(postgres_url=SecretStr("postgresql://u:pw@h/d")).effective()
    row = next(row for row in rows if row["variable"] == "POSTGRES_URL")
    assert row["value"] == "********"
    assert row["source"] == "set"
    assert "pw@h" not in str(rows)
