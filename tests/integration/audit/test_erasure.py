"""Erasure: no plaintext is left, proofs still verify, late events carry nothing."""

import time

import asyncpg
import pytest

from libs.common.http_client import Reply, ServiceClient
from libs.common.transparency.crypto import verify_ed25519
from libs.common.transparency.note import VerifierKey
from libs.common.transparency.policy import Policy
from libs.common.transparency.proof import ProofFile
from tests.integration.audit.process import deliver, prediction

pytestmark = pytest.mark.anyio
MARKER = "card:planted-4711"


async def _call(
    client: ServiceClient,
    method: str,
    path: str,
    json: object = None,
    scopes: tuple[str, ...] = ("audit:read",),
) -> Reply:
    return await client.request(method, path, json=json, tenant="default", scopes=scopes)


async def _rows_with(url: str, marker: str) -> list[str]:
    connection = await asyncpg.connect(url)
    tables = await connection.fetch(
        "SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables "
        "WHERE schemaname = 'audit'"
    )
    found = []
    for table in tables:
        # bytea shows as hex in text, hence both forms.
        rows = await connection.fetch(
            f"SELECT 1 FROM {table['name']} t WHERE t::text LIKE $1 OR t::text LIKE $2",
            f"%{marker}%",
            f"%{marker.encode().hex()}%",
        )
        found += [table["name"]] * len(rows)
    await connection.close()
    return found


async def test_after_erasure_nothing_is_readable_and_old_proofs_verify(audit, clean_postgres):
    client = audit.client("gateway")
    emitter = audit.client("inference")
    event = prediction(1, data_subject=MARKER)
    await deliver(emitter, [event, prediction(2, data_subject="card:other")])
    path = f"/v1/audit/events/{event.id}"
    personal = ("audit:read", "audit:personal")
    assert (await _call(client, "GET", path, scopes=personal)).json()["data_subject"] == MARKER
    plain = (await _call(client, "GET", path)).json()
    assert set(plain["data_subject"]) == {"pseudonym"}
    assert await _rows_with(clean_postgres, MARKER) == []

    deadline = time.monotonic() + 10
    while (before := await _call(client, "GET", f"{path}/proof")).status != 200:
        assert time.monotonic() < deadline

    body = {"data_subject": MARKER}
    refused = await _call(client, "POST", "/v1/audit/erasures", body)
    assert refused.status == 403
    done = await _call(client, "POST", "/v1/audit/erasures", body, ("audit:erase",))
    assert done.status == 200, done.body
    assert done.json() == {
        "pseudonym": plain["data_subject"]["pseudonym"],
        "events": 1,
        "status": "erased",
    }
    again = await _call(client, "POST", "/v1/audit/erasures", body, ("audit:erase",))
    assert again.json()["status"] == "already_erased"

    late = prediction(3, data_subject=MARKER)
    await deliver(emitter, [late])
    for event_id in (event.id, late.id):
        shown = await _call(client, "GET", f"/v1/audit/events/{event_id}", scopes=personal)
        assert shown.json()["data_subject"] == "erased"
    connection = await asyncpg.connect(clean_postgres)
    keys = await connection.fetch("SELECT wrapped_dek IS NULL AS gone FROM audit.subject_key")
    await connection.close()
    assert sorted(row["gone"] for row in keys) == [False, True]

    leaf = (await _call(client, "GET", f"{path}/leaf")).body
    key = VerifierKey.parse((await _call(client, "GET", "/v1/audit/status")).json()["verifier_key"])
    ProofFile.parse(before.body.decode()).verify(leaf, Policy(key), verify_ed25519)
    while True:
        query = "/v1/audit/events?type=data_subject.erased"
        items = (await _call(client, "GET", query)).json()["items"]
        if items:
            break
        assert time.monotonic() < deadline + 10, "the erasure is not on record"
    assert len(items) == 1
    assert items[0]["data"]["pseudonym"] == plain["data_subject"]["pseudonym"]
    await client.close()
    await emitter.close()


async def test_after_rotation_a_restored_key_row_opens_nothing_and_survivors_do(
    audit, clean_postgres
):
    client, emitter = audit.client("gateway"), audit.client("inference")
    gone, kept = prediction(1, data_subject=MARKER), prediction(2, data_subject="card:kept")
    await deliver(emitter, [gone, kept])
    connection = await asyncpg.connect(clean_postgres)
    backup = await connection.fetch("SELECT pseudonym, wrapped_dek, kek_id FROM audit.subject_key")
    erase = ("audit:erase",)
    await _call(client, "POST", "/v1/audit/erasures", {"data_subject": MARKER}, erase)
    keys = audit.state_dir / "audit"
    old = {path.name for path in keys.glob("kek-*.key")}
    rotated = await _call(client, "POST", "/v1/audit/keys:rotate", None, erase)
    assert rotated.status == 200, rotated.body
    assert rotated.json()["subject_keys"] == 1
    assert len(old & {path.name for path in keys.glob("kek-*.key")}) == 0

    personal = ("audit:read", "audit:personal")
    shown = await _call(client, "GET", f"/v1/audit/events/{kept.id}", scopes=personal)
    assert shown.json()["data_subject"] == "card:kept"
    again = prediction(3, data_subject="card:kept")
    await deliver(emitter, [again])
    shown = await _call(client, "GET", f"/v1/audit/events/{again.id}", scopes=personal)
    assert shown.json()["data_subject"] == "card:kept"

    await connection.executemany(
        "UPDATE audit.subject_key SET wrapped_dek = $2, kek_id = $3 WHERE pseudonym = $1",
        [tuple(row) for row in backup],
    )
    await connection.close()
    shown = await _call(client, "GET", f"/v1/audit/events/{gone.id}", scopes=personal)
    assert shown.json()["data_subject"] == "erased"
    late = await deliver(emitter, [prediction(4, data_subject=MARKER)])
    assert late.json()["results"][0]["status"] == "appended"
    await client.close()
    await emitter.close()


async def test_a_wrong_erasure_is_refused_by_field(audit):
    client = audit.client("gateway")
    for body in ({}, {"data_subject": ""}, {"data_subject": 7}, {"data_subject": "a", "x": 1}):
        reply = await _call(client, "POST", "/v1/audit/erasures", body, ("audit:erase",))
        assert reply.status == 422, body
    await client.close()
