"""The witness as a real process, beside a real audit process and on its own."""

import base64
import time
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tlog_scales.signing import Vkey
from tlog_scales.tlog import Checkpoint as TlogCheckpoint

from libs.common.http_client import ServiceClient
from libs.common.transparency.crypto import verify_ed25519
from libs.common.transparency.note import Checkpoint, VerifierKey, open_note, sign_note
from libs.common.transparency.policy import Policy
from libs.common.transparency.proof import ProofFile
from libs.common.transparency.tree import (
    EMPTY_ROOT,
    consistency_ranges,
    leaf_hash,
    range_hash,
    root_of,
)
from services.witness.store import origin_hash
from tests.integration.audit.process import (
    AuditProcess,
    WitnessProcess,
    deliver,
    prediction,
    until,
)

pytestmark = pytest.mark.anyio
ORIGIN = "test.example/log"
LEAVES = [leaf_hash(bytes([i])) for i in range(40)]


class _Log:
    """A log of its own: any size and root can be signed."""

    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.generate()
        public = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.verifier = VerifierKey.of(ORIGIN, public)

    def note(self, size: int, root: bytes | None = None, origin: str = ORIGIN) -> str:
        root = root_of(LEAVES[:size]) if root is None else root
        return sign_note(Checkpoint(origin, size, root).text(), self.verifier, self._key.sign)

    @staticmethod
    def proof(old: int, new: int) -> list[bytes]:
        def node(height: int, index: int) -> bytes:
            return root_of(LEAVES[index << height : (index + 1) << height])

        return [range_hash(span, node) for span in consistency_ranges(old, new)]


def body(old: int, proof: list[bytes], note: str) -> bytes:
    lines = [f"old {old}", *(base64.b64encode(item).decode() for item in proof)]
    return ("\n".join(lines) + "\n\n" + note).encode()


@pytest.fixture
def witness(own_state):
    process = WitnessProcess(own_state)
    process.start()
    yield process
    process.kill()


async def test_the_protocol_is_answered_case_by_case_and_survives_kill(own_state, witness):
    log = _Log()
    (own_state / "audit").mkdir()
    (own_state / "audit" / "log.vkey").write_text(f"{log.verifier}\n")
    client = ServiceClient("witness", witness.url, None)

    async def add(data: bytes) -> tuple[int, bytes, str]:
        reply = await client.request("POST", "/add-checkpoint", body=data)
        return reply.status, reply.body, reply.headers.get("Content-Type", "")

    latest = f"/{origin_hash(ORIGIN)}/checkpoint"
    assert (await client.request("GET", latest)).status == 404
    assert (await add(body(0, [], log.note(0, b"\1" * 32))))[0] == 422
    assert (await add(body(0, LEAVES[:1], log.note(10))))[0] == 422
    status, line, _ = await add(body(0, [], log.note(10)))
    assert status == 200
    _, signers = open_note(log.note(10) + line.decode(), [witness.verifier], verify_ed25519)
    assert signers == [witness.verifier.name]

    assert await add(body(0, [], log.note(10))) == (409, b"10\n", "text/x.tlog.size")
    assert (await add(body(7, log.proof(7, 20), log.note(20))))[:2] == (409, b"10\n")
    assert (await add(body(30, [], log.note(20))))[0] == 400
    assert (await add(body(10, log.proof(10, 20)[:-1], log.note(20))))[0] == 422
    assert (await add(body(10, log.proof(10, 20), log.note(20, b"\7" * 32))))[0] == 422
    assert (await add(body(10, [], log.note(10, b"\7" * 32))))[0] == 422
    assert (await add(body(10, LEAVES[:1], log.note(10))))[0] == 422
    assert (await add(body(10, log.proof(10, 20), _Log().note(20))))[0] == 403
    assert (await add(body(10, log.proof(10, 20), log.note(20, origin="other/log"))))[0] == 404
    for wrong in (b"", b"old 1", b"old x\n\n", b"old 01\n\n", b"old 10\n!!\n\n" + b"x", b"\xff"):
        assert (await add(wrong))[0] in {400, 404}, wrong
    assert (await add(b"old 10\n" + b"A" * 70_000))[0] == 413
    assert (await add(body(10, [], log.note(10))))[0] == 200

    await client.close()
    witness.kill()
    witness.start()
    client = ServiceClient("witness", witness.url, None)
    assert (await add(body(0, [], log.note(5))))[:2] == (409, b"10\n")
    assert (await add(body(10, log.proof(10, 40), log.note(40))))[0] == 200
    kept = (await client.request("GET", latest)).body.decode()
    policy = Policy(log.verifier, (witness.verifier,))
    assert policy.checkpoint_of(kept, verify_ed25519).size == 40
    # An independent implementation reads the cosignature too.
    TlogCheckpoint.from_text(kept).verify(Vkey.from_string(str(witness.verifier)))
    assert witness.memory_mib() < 40
    await client.close()


def test_an_empty_log_is_cosigned_once_with_the_empty_root() -> None:
    from services.witness.domain import Request, judge

    log = _Log()
    request = Request(0, (), log.note(0, EMPTY_ROOT))
    assert judge(request, log.verifier, None, verify_ed25519).size == 0


async def test_checkpoints_are_cosigned_or_marked_and_witnessed_later(own_state, clean_postgres):
    witness = WitnessProcess(own_state)
    audit = AuditProcess(own_state, clean_postgres, WITNESS_URL=witness.url)
    audit.start()
    client = audit.client("inference")

    async def status() -> Any:
        reply = await client.request("GET", "/v1/audit/status", scopes=("audit:read",))
        return reply.json()

    try:
        event = prediction(1)
        await deliver(client, [event])
        await until(lambda: _published(status, 1))
        open_span = (await status())["witness"]["unwitnessed"]
        assert open_span is not None
        # The log's own signature keeps up, the witness's falls behind.
        await until(lambda: _ages(client, lambda own, other: own < 2.5 < other))

        witness.start()
        await until(lambda: _is_witnessed(status))
        await until(lambda: _ages(client, lambda own, other: max(own, other) < 2.5))
        assert (await status())["witness"]["unwitnessed"] is None
        both = Policy(
            VerifierKey.parse((await status())["verifier_key"]),
            (VerifierKey.parse((await status())["witness"]["verifier_key"]),),
        )
        path = f"/v1/audit/events/{event.id}"
        texts = {}
        for kind in ("proof", "leaf"):
            reply = await client.request(
                "GET", f"{path}/{kind}", tenant="default", scopes=("audit:read",)
            )
            texts[kind] = reply.body
        proof = ProofFile.parse(texts["proof"].decode())
        assert proof.verify(texts["leaf"], both, verify_ed25519).size >= 1
    finally:
        await client.close()
        audit.kill()
        witness.kill()


async def test_a_log_that_was_cut_below_the_witness_stops_appending(own_state, clean_postgres):
    witness = WitnessProcess(own_state)
    audit = AuditProcess(own_state, clean_postgres, WITNESS_URL=witness.url)
    witness.start()
    audit.start()
    client = audit.client("inference")

    async def status() -> Any:
        reply = await client.request("GET", "/v1/audit/status", scopes=("audit:read",))
        return reply.json()

    try:
        await deliver(client, [prediction(i) for i in range(5)])
        await until(lambda: _is_witnessed(status, 5))
        # What a superuser with the log's key could do: roll everything back, checkpoints included.
        connection = await asyncpg.connect(clean_postgres)
        for statement in (
            "DELETE FROM audit.checkpoint",
            "DELETE FROM audit.leaf",
            "DELETE FROM audit.payload",
            "DELETE FROM audit.tile",
            "DELETE FROM audit.log_state",
            "DELETE FROM audit.event_dedup",
        ):
            await connection.execute(statement)
        await connection.close()
        await deliver(client, [prediction(9)])
        await until(lambda: _is_forked(status))
        reply = await deliver(client, [prediction(10)])
        assert (reply.status, reply.json()["code"]) == (503, "log_halted")
    finally:
        await client.close()
        audit.kill()
        witness.kill()


async def _published(status, size: int) -> bool:
    document = await status()
    return document["checkpoint"] is not None and document["checkpoint"]["size"] >= size


async def _is_witnessed(status, size: int = 0) -> bool:
    checkpoint = (await status())["checkpoint"]
    return checkpoint is not None and checkpoint["witnessed"] and checkpoint["size"] >= size


async def _ages(client: ServiceClient, hold: Callable[[float, float], bool]) -> bool:
    """Say whether the ages of checkpoint and cosignature, in seconds, are as wanted."""
    lines = (await client.request("GET", "/metrics")).body.decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    own, other = (
        float(values[f"gatehouse_audit_{name}_age_seconds"])
        for name in ("checkpoint", "cosignature")
    )
    return hold(own, other)


async def _is_forked(status) -> bool:
    return not (await status())["consistent"]


async def test_nothing_but_http_is_answered(witness):
    import asyncio

    reader, writer = await asyncio.open_connection("127.0.0.1", witness.port)
    writer.write(b"\x16\x03\x01\x02\0")
    await writer.drain()
    assert (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP/1.1 400 ")
    writer.close()
    deadline = time.monotonic() + 5
    client = ServiceClient("witness", witness.url, None)
    assert (await client.request("GET", "/nothing")).status == 404
    assert (await client.request("GET", "/add-checkpoint")).status == 405
    assert (await client.request("GET", "/livez")).status == 200
    assert time.monotonic() < deadline
    await client.close()
