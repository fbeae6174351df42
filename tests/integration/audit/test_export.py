"""Exports and offline verification: from a running service to a file, then without any server."""

import csv
import io
import json
import zipfile
from pathlib import Path

import asyncpg
import pytest
from typer.testing import CliRunner

from libs.cli.__main__ import app
from libs.common.http_client import Reply, ServiceClient
from tests.integration.audit.process import AuditProcess, WitnessProcess, deliver, prediction, until

pytestmark = pytest.mark.anyio
SIZE = 270


@pytest.fixture
def witnessed(own_state, clean_postgres):
    witness = WitnessProcess(own_state)
    witness.start()
    audit = AuditProcess(own_state, clean_postgres, WITNESS_URL=witness.url)
    audit.start()
    yield audit, witness
    audit.kill()
    witness.kill()


async def _get(client: ServiceClient, path: str) -> Reply:
    return await client.request("GET", path, tenant="default", scopes=("audit:read",), timeout_s=20)


def _verify(*arguments: str) -> tuple[int, dict[str, object]]:
    result = CliRunner().invoke(app, ["audit", "verify", "--json", *arguments])
    return result.exit_code, json.loads(result.stdout)


def _edited(source: Path, target: Path, member: str, change) -> str:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, change(data) if name == member else data)
    return str(target)


async def test_exports_verify_offline_and_every_edit_of_them_is_named(
    witnessed, tmp_path, clean_postgres
):
    audit, witness = witnessed
    client = audit.client("inference")
    events = [
        prediction(i, tenant="other" if i % 10 == 9 else "default", data_subject=f"card:{i % 5}")
        for i in range(SIZE)
    ]
    events[3] = prediction(3, request_id="=1+1", data_subject="card:3")
    await deliver(client, events)

    async def is_witnessed() -> bool:
        last = (await _get(client, "/v1/audit/status")).json()["checkpoint"]
        return bool(last and last["witnessed"] and last["size"] == SIZE)

    await until(is_witnessed)

    lines = await _get(client, "/v1/audit/export?format=ndjson")
    assert lines.headers["x-total-rows"] == str(SIZE - 27)
    items = [json.loads(line) for line in lines.body.splitlines()]
    assert len(items) == SIZE - 27
    assert {item["tenant"] for item in items} == {"default"}
    assert b"card:" not in lines.body
    table = list(
        csv.DictReader(
            io.StringIO((await _get(client, "/v1/audit/export?format=csv")).body.decode())
        )
    )
    assert len(table) == SIZE - 27
    assert table[-4]["request_id"] == "'=1+1"
    ocsf = (await _get(client, "/v1/audit/export?format=ocsf&request_id==1%2B1")).body
    assert [json.loads(line)["class_uid"] for line in ocsf.splitlines()] == [6003]
    assert (await _get(client, "/v1/audit/export?format=xml")).status == 422
    assert (await _get(client, "/v1/audit/export?from_index=3")).status == 422
    assert (await _get(client, "/v1/audit/export?format=evidence&from_index=999")).status == 422
    none = await _get(client, "/v1/audit/export?format=ndjson&data_subject=card:nobody")
    assert (none.status, none.body, none.headers["x-total-rows"]) == (200, b"", "0")

    evidence = tmp_path / "range.zip"
    path = "/v1/audit/export?format=evidence&from_index=20&to_index=260"
    evidence.write_bytes((await _get(client, path)).body)
    key = ("--key", str(audit.state_dir / "audit" / "log.vkey"))
    both = (*key, "--witness-key", str(witness.verifier))
    code, said = _verify(str(evidence), *both)
    assert (code, said["leaves"], said["payloads"]) == (0, 240, 216)

    def leaf_changed(data: bytes) -> bytes:
        lines = data.split(b"\n")
        lines[40] = lines[40].replace(b'"v":1', b'"v":1 ')
        return b"\n".join(lines)

    edits = [
        ("leaves.jsonl", leaf_changed, 60),
        ("leaves.jsonl", lambda data: data.partition(b"\n")[2], 20),
        ("payloads.jsonl", lambda data: data.replace(b'"body": "e', b'"body": "f', 1), 20),
        ("proof.txt", lambda data: data.partition(b"\n")[2], 20),
        ("checkpoint", lambda data: data.replace(b"270\n", b"271\n", 1), None),
        ("manifest.json", lambda d: d.replace(b'"from_index": 20', b'"from_index": 21'), 21),
    ]
    for member, change, index in edits:
        code, said = _verify(_edited(evidence, tmp_path / "e.zip", member, change), *both)
        assert (code, said["first_bad_index"]) == (1, index), (member, said)
    for target in ("nothing.zip", str(audit.state_dir / "audit" / "log.vkey")):
        assert _verify(target, *both)[0] == 2
    assert _verify(str(evidence))[0] == 2
    assert _verify(str(evidence), "--key", str(witness.verifier))[0] == 2

    one = f"/v1/audit/events/{events[0].id}"
    proof, leaf = tmp_path / "one.tlog-proof", tmp_path / "one.leaf"
    proof.write_bytes((await _get(client, f"{one}/proof")).body)
    leaf.write_bytes((await _get(client, f"{one}/leaf")).body)
    assert _verify(str(proof), "--leaf", str(leaf), *both)[0] == 0
    leaf.write_bytes(leaf.read_bytes() + b" ")
    code, said = _verify(str(proof), "--leaf", str(leaf), *both)
    assert (code, said["first_bad_index"]) == (1, 0)
    await client.close()


async def test_the_whole_log_is_verified_from_its_database_while_it_runs(
    witnessed, tmp_path, clean_postgres
):
    audit, witness = witnessed
    client = audit.client("inference")
    await deliver(client, [prediction(i, data_subject=f"card:{i % 5}") for i in range(SIZE)])

    async def is_witnessed() -> bool:
        last = (await _get(client, "/v1/audit/status")).json()["checkpoint"]
        return bool(last and last["witnessed"] and last["size"] == SIZE)

    await until(is_witnessed)
    kept = tmp_path / "kept"
    kept.write_bytes((await _get(client, "/checkpoint")).body)
    options = [
        "--key",
        str(audit.state_dir / "audit" / "log.vkey"),
        "--witness-key",
        str(witness.verifier),
        "--against",
        str(kept),
        "--database",
    ]
    # The command runs a loop of its own, so it needs a thread of its own.
    import asyncio

    code, said = await asyncio.to_thread(_verify, *options, clean_postgres)
    assert (code, said["leaves"], said["data_subjects"]) == (0, SIZE, 5)
    connection = await asyncpg.connect(clean_postgres)
    await connection.execute(
        "UPDATE audit.payload SET body = convert_to(replace(convert_from(body, 'UTF8'), "
        "'approve', 'decline'), 'UTF8') WHERE index = 123"
    )
    await connection.close()
    code, said = await asyncio.to_thread(_verify, *options, clean_postgres)
    assert (code, said["first_bad_index"]) == (1, 123)
    code, _ = await asyncio.to_thread(_verify, *options, "postgresql://127.0.0.1:1/x")
    assert code == 2
    await client.close()
