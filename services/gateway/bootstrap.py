"""`python -m services.gateway.bootstrap --demo-key FILE`: the default tenant and the demo key.

Idempotent: a key in FILE that is still valid is kept; otherwise a new one is made, the old one is
revoked, and the text is written with mode 0600. The demo key has every scope and is exempt from
the address and route policies.
"""

import argparse
import asyncio
import os
import sys
from pathlib import Path

from libs.common.context import Caller
from libs.common.postgres import Postgres
from libs.common.settings import SettingsError
from services.gateway.adapters.key_store import PostgresKeyStore
from services.gateway.adapters.secrets import load_pepper, pepper_id
from services.gateway.domain import keys
from services.gateway.domain.ports import Credential
from services.gateway.settings import GatewaySettings

TENANT = "default"
_NAME = "demo"
# Far above what two cores serve, so that the demonstration and the benchmark meet no quota.
_REQUESTS_MAX = 10_000_000
_CONCURRENCY_MAX = 10_000


async def ensure_demo_key(settings: GatewaySettings, file: Path) -> bool:
    """Make the tenant and the key where they are missing.

    Returns:
        Whether a new key was made.
    """
    if settings.postgres_url is None:
        raise SettingsError("gateway bootstrap: set POSTGRES_URL")
    postgres = Postgres(settings.postgres_url.get_secret_value(), "gateway", pool_max=1)
    try:
        store = PostgresKeyStore(postgres)
        pepper = load_pepper(settings)
        await store.ensure_tenant(TENANT, "Default")
        if await _is_valid(store, pepper, file):
            return False
        await store.revoke_named(TENANT, _NAME)
        key_id, text = keys.new_key()
        await store.add(
            credential=Credential(
                key_id=key_id,
                caller=Caller(TENANT, f"key:{key_id}", frozenset({"*"})),
                requests_max=_REQUESTS_MAX,
                window_s=60,
                concurrency_max=_CONCURRENCY_MAX,
                exempt_ip=True,
                exempt_routes=True,
            ),
            name=_NAME,
            mac=keys.digest(pepper, text),
            pepper=pepper_id(pepper),
            created_by="bootstrap",
            expires_at=None,
        )
        _write_private(file, text + "\n")
        return True
    finally:
        await postgres.close()


async def _is_valid(store: PostgresKeyStore, pepper: bytes, file: Path) -> bool:
    try:
        text = file.read_text().strip()  # noqa: ASYNC240 - a command, nothing else runs
    except OSError:
        return False
    key_id = keys.key_id_of(text)
    stored = await store.find(key_id) if key_id else None
    return (
        stored is not None
        and not stored.revoked
        and keys.same(stored.mac, keys.digest(pepper, text))
    )


def _write_private(file: Path, text: str) -> None:
    """Replace the file at once, readable by its owner only."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as handle:
        handle.write(text)
    draft.replace(file)


def main(argv: list[str]) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m services.gateway.bootstrap")
    parser.add_argument("--demo-key", type=Path, required=True, metavar="FILE")
    file: Path = parser.parse_args(argv).demo_key
    try:
        is_new = asyncio.run(ensure_demo_key(GatewaySettings.load(), file))
    except SettingsError as error:
        print(error, file=sys.stderr)  # noqa: T201 - a command
        return 2
    print(f"demo key {'written to' if is_new else 'kept in'} {file}")  # noqa: T201 - a command
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
