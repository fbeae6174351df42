"""The environment that child processes get: the caller's, `.env`, and what the runner decides."""

from collections.abc import Mapping

from deploy.local.layout import Layout
from deploy.local.ports import LOOPBACK, SINK, WITNESS
from libs.common.catalog import SERVICES

# Local values for what the user left open. Draining is short: nothing balances load here.
_LOCAL_DEFAULTS = {
    "DRAIN_S": "0.5",
    "SHUTDOWN_S": "5",
    "PYTHONUNBUFFERED": "1",
    # glibc otherwise reserves an arena per thread; six idle services would hold memory for nothing.
    "MALLOC_ARENA_MAX": "2",
}


def has_postgres(environ: Mapping[str, str]) -> bool:
    """Say whether the user brings a PostgreSQL."""
    return bool(environ.get("POSTGRES_URL") or environ.get("DATABASE_URL"))


def has_redis(environ: Mapping[str, str]) -> bool:
    """Say whether the user brings a Redis."""
    return bool(environ.get("REDIS_URL") or environ.get("REDIS_HOST"))


def has_collector(environ: Mapping[str, str]) -> bool:
    """Say whether spans go to a collector of the user's, or nowhere by wish."""
    return bool(
        environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
        or environ.get("JAEGER_AGENT_HOST")
        or environ.get("OTEL_TRACES_EXPORTER") == "none"
    )


def child_environment(
    environ: Mapping[str, str],
    layout: Layout,
    ports: Mapping[str, int],
    *,
    postgres_url: str | None,
    redis_url: str | None,
    is_terminal: bool,
) -> dict[str, str]:
    """Build the environment of every child.

    Args:
        environ: the user's variables.
        layout: state directory.
        ports: port by service, the sink's and the witness's.
        postgres_url: embedded server, None when the user brings one.
        redis_url: likewise.
        is_terminal: whether a person reads the log.
    """
    child = {**_LOCAL_DEFAULTS, **environ}
    child["STATE_DIR"] = str(layout.root)
    child["KEYS_DIR"] = environ.get("KEYS_DIR") or str(layout.keys)
    child["READY_FILE"] = str(layout.ready)
    if postgres_url:
        child["POSTGRES_URL"] = postgres_url
    elif not child.get("POSTGRES_URL"):
        child["POSTGRES_URL"] = child["DATABASE_URL"]
    if redis_url:
        child["REDIS_URL"] = redis_url
    if not has_collector(environ):
        child["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://{LOOPBACK}:{ports[SINK]}"
        child["CONSOLE_TRACES_URL"] = child["OTEL_EXPORTER_OTLP_ENDPOINT"]
    if is_terminal:
        child.setdefault("LOG_FORMAT", "console")
    for name in SERVICES:
        child[f"{name.upper()}_PORT"] = str(ports[name])
        child[f"{name.upper()}_URL"] = f"http://{LOOPBACK}:{ports[name]}"
    child["WITNESS_PORT"] = str(ports[WITNESS])
    child.setdefault("WITNESS_URL", f"http://{LOOPBACK}:{ports[WITNESS]}")
    return child
