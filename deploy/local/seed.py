"""`python -m deploy.local.seed MARKER`: load a few thousand generated payments into features.

Runs once per state directory, as a child of the runner: the generator's memory goes with it. The
payments end now and carry the ids of the README's first request. It speaks to
the features service itself, because the gateway turns ready only afterwards, and signs as the
gateway does, for the default tenant. Loading twice changes nothing: ids are stable per day.
"""

import asyncio
import itertools
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from libs.common.http_client import ServiceClient
from libs.common.identity import Signer
from training.generators.transactions import Transactions, recent_history

TENANT = "default"
BATCH = 500
_BATCH_WITHIN_S = 60.0
_APPLIED_WITHIN_S = 60.0


class SeedError(Exception):
    """Features refused a batch; the text holds its answer."""


def event_of(payment: dict[str, Any]) -> dict[str, Any]:
    """Give a generated payment as the event that features ingests, with its arrival time."""
    return {
        "event_id": payment["transaction_id"],
        "type": "card_transaction",
        "event_ms": payment["event_ms"],
        "arrival_ms": payment["event_ms"],
        "entities": {"card_id": payment["card_id"], "merchant_id": payment["merchant_id"]},
        "values": {"amount_minor": payment["amount_minor"]},
        "attrs": {name: payment[name] for name in ("mcc_code", "country_code", "device_id")},
    }


def batches(history: Transactions) -> Iterator[list[dict[str, Any]]]:
    """Cut the history into requests."""
    events = map(event_of, history.events())
    while batch := list(itertools.islice(events, BATCH)):
        yield batch


async def load(client: ServiceClient, history: Transactions) -> int:
    """Send all batches and print `progress seed DONE TOTAL`; gives the number accepted.

    Raises:
        SeedError: a batch was refused.
    """
    print(f"progress seed 0 {len(history)}", flush=True)
    done = 0
    for batch in batches(history):
        reply = await client.request(
            "POST",
            "/features/backfills",
            json={"events": batch},
            timeout_s=_BATCH_WITHIN_S,
            tenant=TENANT,
            scopes=("features:admin", "features:write"),
        )
        if reply.status >= 300:
            raise SeedError(f"features answered {reply.status}: {reply.body[:500].decode()}")
        done += len(batch)
        print(f"progress seed {done} {len(history)}", flush=True)
    return done


async def wait_until_applied(client: ServiceClient) -> None:
    """Wait until what is in the event log can be read as features.

    Raises:
        SeedError: the appliers are still behind after a minute.
    """
    deadline = time.monotonic() + _APPLIED_WITHIN_S
    while time.monotonic() < deadline:
        reply = await client.request(
            "GET", "/features/freshness", tenant=TENANT, scopes=("features:read",)
        )
        if reply.status == 200 and reply.json()["lag_events"] == 0:
            return
        await asyncio.sleep(0.1)
    raise SeedError(f"the features were not built within {_APPLIED_WITHIN_S:.0f} s")


async def seed() -> int:
    """Generate and load; gives the number of payments."""
    client = ServiceClient(
        "features",
        os.environ["FEATURES_URL"],
        Signer.from_directory("gateway", Path(os.environ["KEYS_DIR"])),
    )
    history = recent_history(int(time.time() * 1000))
    try:
        count = await load(client, history)
        await wait_until_applied(client)
        return count
    finally:
        await client.close()


if __name__ == "__main__":
    try:
        payments = asyncio.run(seed())
    except SeedError as error:
        sys.exit(f"seed: {error}")
    marker = {"payments": payments, "loaded_unix_s": int(time.time())}
    Path(sys.argv[1]).write_bytes(orjson.dumps(marker))
