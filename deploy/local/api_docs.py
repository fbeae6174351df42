"""`python -m deploy.local.api_docs`: write the merged OpenAPI description of all services.

The document is what a gateway with every service up publishes at `/openapi.json`. No service is
started: each app is built from its default settings and asked for its own document. A test compares
the committed `docs/api/openapi.json` with this output; `make api-docs` writes it again.
"""

import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import orjson

from deploy.local.env_example import settings_class
from libs.common.catalog import SERVICES
from libs.common.identity import ensure_keys
from libs.common.platform import VERSION
from services.gateway.domain.api_description import merge

# Some services refuse to be built without stores; nothing connects to these.
_STORES: dict[str, Any] = {
    "postgres_url": "postgresql://127.0.0.1/none",
    "redis_url": "redis://127.0.0.1/0",
}


def documents(state_dir: Path) -> dict[str, Any]:
    """Give the OpenAPI document of each service.

    Args:
        state_dir: an empty folder; gets the keys without which no app is built.
    """
    ensure_keys(state_dir / "keys", SERVICES)
    found = {}
    for service in SERVICES:
        create = importlib.import_module(f"services.{service}.app").create_app
        settings = settings_class(service)(state_dir=state_dir, **_STORES)
        found[service] = create(settings).openapi()
    return found


def render() -> bytes:
    """Give the merged document: JSON, sorted keys, two spaces, a line end."""
    routes = [(name, route) for name, entry in SERVICES.items() for route in entry.routes]
    with tempfile.TemporaryDirectory() as state_dir:
        document = merge(documents(Path(state_dir)), routes, version=VERSION)
    options = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE
    return orjson.dumps(document, option=options)


if __name__ == "__main__":
    sys.stdout.buffer.write(render())
