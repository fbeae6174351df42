"""`python -m deploy.local.env_example`: write `.env.example` from the settings classes.

Every line is commented out, so a copy named `.env` changes nothing until a line is opened. A test
compares the committed file with this output; `make env-example` writes it again.
"""

import importlib
import inspect
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from libs.common.catalog import SERVICES
from libs.common.settings import ServiceSettings, variables_of
from services.witness.settings import VARIABLES as WITNESS

_WIDTH = 96

# Every variable that the mission names, with the effect it is meant to have. Those that no settings
# class reads yet are listed as such at the end of the file.
MISSION: dict[str, str] = {
    "API_HOST": "Address that the API listens on; BIND_HOST today.",
    "API_PORT": "Public port of the gateway.",
    "BATCH_SIZE": "Largest batch of texts given to a validator at once (32).",
    "CACHE_DEFAULT_TTL": "Seconds that verdicts are cached (300).",
    "CACHE_TTL": "Seconds that predictions are cached (3600).",
    "DATABASE_URL": "Alias of POSTGRES_URL.",
    "ENABLE_METRICS": "Whether guardrails records metrics.",
    "FEATURE_CACHE_TTL": "Seconds a client-side copy of a feature may live (300).",
    "FEATURE_NAMES_PATH": "File with the names of a model's inputs.",
    "GEMINI_API_KEY": "Key of the Gemini API; without it reports are rule-based.",
    "GEMINI_CACHE_TTL": "Seconds that a report is cached (300).",
    "GEMINI_MAX_TOKENS": "Longest answer asked of Gemini (1024).",
    "GEMINI_MODEL": "Model that writes reports (gemini-2.5-flash-lite).",
    "GEMINI_RATE_LIMIT": "Calls to Gemini per minute over all replicas (10).",
    "GEMINI_TEMPERATURE": "Temperature of reports (0.3).",
    "JAEGER_AGENT_HOST": "Means http://HOST:4318.",
    "JAEGER_AGENT_PORT": "Ignored.",
    "LOG_LEVEL": "Lowest level written.",
    "MAX_BATCH_SIZE": "Largest batch that the scheduler forms (32).",
    "MAX_CONCURRENT_REQUESTS": "Requests that guardrails works on at once (100).",
    "MLFLOW_TRACKING_URI": "MLflow server that models may be taken from.",
    "MODEL_PATH": "A model file outside the model repository.",
    "NVIDIA_VISIBLE_DEVICES": "GPUs that the container may use.",
    "ONNX_MODEL_PATH": "An ONNX file outside the model repository.",
    "POSTGRES_URL": "PostgreSQL URL.",
    "RATE_LIMIT_REQUESTS": "Requests of one API key per window (100).",
    "RATE_LIMIT_WINDOW": "Seconds of that window (60).",
    "REDIS_DB": "Redis database number.",
    "REDIS_HOST": "Redis host.",
    "REDIS_PASSWORD": "Redis password.",
    "REDIS_PORT": "Redis port.",
    "REDIS_URL": "Redis URL.",
    "USE_ONNX": "Whether models run in ONNX Runtime.",
}

# Read by the runner, by Docker and by the terminal, not by a settings class.
RUNNER: dict[str, str] = {
    **{
        f"{name.upper()}_PORT": f"Port of {name}; default {entry.port}."
        for name, entry in SERVICES.items()
    },
    "OTLP_SINK_PORT": "Port of the runner's own trace receiver; default 4318.",
    "NO_COLOR": "Any value switches colours off.",
}


def settings_class(service: str) -> type[ServiceSettings]:
    """Give the settings class of a service."""
    module = importlib.import_module(f"services.{service}.settings")
    members: list[tuple[str, type]] = inspect.getmembers(module, inspect.isclass)
    for _, value in members:
        if issubclass(value, ServiceSettings) and value.service == service:
            return value
    raise LookupError(f"services.{service}.settings has no settings class")


def declared() -> set[str]:
    """Name every variable, aliases included, that some settings class reads."""
    owners: list[type[ServiceSettings]] = [ServiceSettings, *map(settings_class, SERVICES)]
    return {
        variable
        for owner in owners
        for name, field in owner.model_fields.items()
        for variable in variables_of(field, name)
    }


def _shown(default: Any) -> str:
    if default is None or default is PydanticUndefined or isinstance(default, SecretStr):
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple | list | frozenset):
        return ",".join(map(str, default))
    return str(default)


def _entry(variable: str, effect: str, default: str = "", aliases: list[str] | None = None) -> str:
    text = effect + (f" Also read: {', '.join(aliases)}." if aliases else "")
    lines = textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# ")
    return "\n".join([*lines, f"#{variable}={default}"])


def _fields(owner: type[ServiceSettings], inherited: set[tuple[str, ...]]) -> Iterator[str]:
    for name, field in owner.model_fields.items():
        variables = variables_of(field, name)
        if tuple(variables) in inherited:
            continue
        variable, *aliases = variables
        default = field.get_default(call_default_factory=True)
        yield _entry(variable, field.description or "", _shown(default), aliases)


def render() -> str:
    """Write the whole file."""
    parts = [
        "# Every variable that Gatehouse reads, its default and its effect. Copy to `.env`, open "
        "what you\n# change; `make run` reads it and the environment wins. A name prefixed with "
        "the service\n# (INFERENCE_LOG_LEVEL) is for that service alone and wins over the bare one."
        "\n# Written by `make env-example`.",
        _title("every service"),
        *_fields(ServiceSettings, set()),
    ]
    common = {tuple(variables_of(f, name)) for name, f in ServiceSettings.model_fields.items()}
    for service in SERVICES:
        own = list(_fields(settings_class(service), common))
        parts += [_title(service), *own] if own else []
    # WITNESS_NAME stands under audit, which reads it too.
    rest = {name: effect for name, effect in WITNESS.items() if name not in declared()}
    parts += [_title("witness"), *(_entry(name, effect) for name, effect in rest.items())]
    parts.append(_title("local runner"))
    parts += [_entry(name, effect) for name, effect in RUNNER.items()]
    missing = sorted(set(MISSION) - declared())
    if missing:
        parts.append(_title("planned: no service reads these yet"))
        parts += [_entry(name, MISSION[name]) for name in missing]
    return "\n\n".join(parts) + "\n"


def _title(text: str) -> str:
    return f"# ---- {text} ".ljust(_WIDTH, "-")


if __name__ == "__main__":
    sys.stdout.write(render())
