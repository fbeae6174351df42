"""The served log: checkpoint, tiles, bundles and proofs, checked by an independent rebuild."""

import asyncio
import time

import asyncpg
import pytest

from libs.common.http_client import Reply, ServiceClient
from libs.common.identity import IDENTITY_HEADER, Signer
from libs.common.transparency import tree
from libs.common.transparency.crypto import verify_ed25519
from libs.common.transparency.note import Checkpoint, VerifierKey, open_note
from libs.common.transparency.policy import Policy
from libs.common.transparency.proof import ProofFile
from libs.common.transparency.tiles import split_hashes
from tests.integration.audit.process import deliver, prediction

pytestmark = pytest.mark.anyio
SIZE = 700


async def _get(client: ServiceClient, path: str) -> Reply:
    return await client.request("GET", path, tenant="default", scopes=("audit:read",))


async def _checkpoint_of(client: ServiceClient, key: VerifierKey, size: int) -> Checkpoint:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        reply = await _get(client, "/checkpoint")
        if reply.status == 200:
            checkpoint = Checkpoint.parse(open_note(reply.body.decode(), [key], verify_ed25519)[0])
            if checkpoint.size >= size:
                return checkpoint
    raise AssertionError("no checkpoint covers the log")


async def test_bundles_tiles_checkpoint_and_proofs_agree_with_a_rebuilt_tree(audit):
    client = audit.client("inference")
    events = [prediction(i) for i in range(SIZE)]
    for start in range(0, SIZE, 90):
        assert (await deliver(client, events[start : start + 90])).status == 200
    key = VerifierKey.parse((await _get(client, "/v1/audit/status")).json()["verifier_key"])
    checkpoint = await _checkpoint_of(client, key, SIZE)
    assert checkpoint.size == SIZE

    entries: list[bytes] = []
    hashes: list[bytes] = []
    for path in ("000", "001", "002.p/188"):
        data = (await _get(client, f"/tile/entries/{path}")).body
        while data:
            length = int.from_bytes(data[:2])
            entries.append(data[2 : 2 + length])
            data = data[2 + length :]
        hashes += split_hashes((await _get(client, f"/tile/0/{path}")).body)
    assert [tree.leaf_hash(entry) for entry in entries] == hashes
    assert tree.root_of(hashes) == checkpoint.root
    level_1 = (await _get(client, "/tile/1/000.p/2")).body
    assert split_hashes(level_1) == [tree.root_of(hashes[:256]), tree.root_of(hashes[256:512])]

    for index in (0, 255, 256, 511, 512, SIZE - 1):
        event_id = events[index].id
        leaf = (await _get(client, f"/v1/audit/events/{event_id}/leaf")).body
        assert leaf == entries[index]
        text = (await _get(client, f"/v1/audit/events/{event_id}/proof")).body.decode()
        proof = ProofFile.parse(text)
        assert proof.verify(leaf, Policy(key), verify_ed25519).size == SIZE
        assert proof.text() == text
        with pytest.raises(tree.VerificationError):
            proof.verify(leaf.replace(b"prediction", b"predictiom"), Policy(key), verify_ed25519)

    for path in (
        "0/002",
        "0/003",
        "0/002.p/189",
        "0/2",
        "0/x000/000",
        "00/000",
        "64/000",
        "0/000.p/0",
        "0/000.p/256",
        "-1/000",
        "entries/002",
        "entries/",
        "a/000",
    ):
        assert (await _get(client, f"/tile/{path}")).status == 404, path
    await client.close()


async def test_an_independent_reader_of_tlog_tiles_agrees(audit):
    """tlog-scales walks our tiles over HTTP: root, entries, proofs, signature."""
    from tlog_scales.backend import HttpBackend
    from tlog_scales.reader import TilesReader
    from tlog_scales.signing import Vkey

    client = audit.client("inference")
    await deliver(client, [prediction(i) for i in range(SIZE)])
    key_text = (await _get(client, "/v1/audit/status")).json()["verifier_key"]
    await _checkpoint_of(client, VerifierKey.parse(key_text), SIZE)
    first = (await _get(client, "/v1/audit/events?limit=1")).json()["items"][0]
    leaf = (await _get(client, f"/v1/audit/events/{first['id']}/leaf")).body

    def read() -> None:
        signer = Signer.from_directory("inference", audit.state_dir / "keys")
        backend = HttpBackend(audit.url)
        backend.session.headers[IDENTITY_HEADER] = signer.header("audit", tenant="default")
        with backend.session:
            reader = TilesReader(backend)
            checkpoint = reader.get_checkpoint()
            checkpoint.verify(Vkey.from_string(key_text))
            assert checkpoint.size == SIZE
            assert reader.calculate_root_hash() == checkpoint.root_hash
            assert reader.get_entry(SIZE - 1) == leaf
            for index in (0, 255, 256, SIZE - 1):
                entry = tree.leaf_hash(reader.get_entry(index))
                reader.get_inclusion_proof(index, SIZE).check(entry, checkpoint.root_hash)
            old = tree.root_of([tree.leaf_hash(reader.get_entry(i)) for i in range(300)])
            reader.get_consistency_proof(300, SIZE).check(old, checkpoint.root_hash)

    await asyncio.to_thread(read)
    await client.close()


async def test_a_rewritten_log_is_never_signed_again(audit, clean_postgres):
    client = audit.client("inference")
    await deliver(client, [prediction(i) for i in range(10)])
    key = VerifierKey.parse((await _get(client, "/v1/audit/status")).json()["verifier_key"])
    signed = await _checkpoint_of(client, key, 10)
    connection = await asyncpg.connect(clean_postgres)
    await connection.execute(
        "UPDATE audit.tile SET hashes = set_byte(hashes, 0, get_byte(hashes, 0) # 255)"
    )
    await connection.execute("UPDATE audit.log_state SET writer = 'somebody else'")
    await connection.close()
    await deliver(client, [prediction(i) for i in range(10, 12)])
    deadline = time.monotonic() + 10
    while (await _get(client, "/v1/audit/status")).json()["consistent"]:
        assert time.monotonic() < deadline, "the change was not noticed"
    assert (await _checkpoint_of(client, key, 10)) == signed
    assert (await _get(client, "/readyz")).status == 503
    await client.close()
