"""Plug-ins in processes of their own: swaps under load, and every way to misbehave."""

import asyncio
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

from libs.common.errors import ConflictError, InvalidInputError, NotFoundError
from services.guardrails.adapters.builtin_policies import BuiltinPolicies
from services.guardrails.adapters.plugins import PluginRegistry
from services.guardrails.adapters.redis_cache import NoCache
from services.guardrails.domain.document import Document
from services.guardrails.domain.guard import Guard
from services.guardrails.domain.policy import Policy, PolicyBody, ValidatorRule
from services.guardrails.domain.verdict import Action, Status
from tests.integration.guardrails.conftest import serving

pytestmark = pytest.mark.anyio
NORMAL = """
class Validator:
    def check(self, texts, context):
        return [[[t.index("bad"), t.index("bad") + 3, "BAD", 1.0]] if "bad" in t else []
                for t in texts]
"""
# The examples pass; the word of a text makes it misbehave.
CHAOS = """
import os, socket, tempfile, time
class Validator:
    def check(self, texts, context):
        text = texts[0]
        if text == "loop":
            while True: pass
        if text == "crash": os._exit(3)
        if text == "raise": raise ValueError(text)
        if text == "allocate": return [["x" * (1 << 34)]]
        if text == "outside": return [[[0, 999, "BAD", 1.0]]]
        if text == "label": return [[[0, 1, "OTHER", 1.0]]]
        if text == "score": return [{"scores": {"BAD": 7}}]
        if text == "few": return []
        if text == "shape": return {"a": 1}
        if text == "fork": os.fork()
        if text == "write":
            with tempfile.TemporaryFile() as file: file.write(b"x" * 10)
        if text == "network": socket.create_connection(("127.0.0.1", int(context["options"])), 1)
        if text == "secrets": return [[[0, 1, "BAD", 1.0]] if len(os.environ) > 4 else []]
        return [[[t.index("bad"), t.index("bad") + 3, "BAD", 1.0]] if "bad" in t else []
                for t in texts]
"""


def install(root: Path, version: str, code: str = NORMAL, **changes) -> None:
    folder = root / "shout" / version
    folder.mkdir(parents=True)
    folder.parent.parent.chmod(0o755)
    (folder / "shout_plugin.py").write_text(code)
    manifest = {
        "name": "shout", "version": version, "entry_point": "shout_plugin:Validator",
        "labels": ["BAD"], "max_span": 20, "positives": ["so bad"], "negatives": ["so good"],
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps({**manifest, **changes}))


@pytest.fixture
def root(tmp_path: Path):
    # The process runs as nobody where it may, and must be able to read its code.
    for folder in (tmp_path, *tmp_path.parents):
        if os.access(folder, os.W_OK) and folder.stat().st_uid == os.geteuid() != 0:
            break
        if str(folder).startswith("/tmp/pytest"):
            folder.chmod(0o755)
    return tmp_path


@pytest.fixture
async def registry(root):
    disabled: list[tuple[str, str]] = []
    table: dict[str, Any] = {}
    found = PluginRegistry(
        table,
        root,
        memory_bytes=256 << 20,
        pool=ThreadPoolExecutor(1),
        on_disabled=lambda *what: disabled.append(what),
    )
    found.disabled_seen = disabled  # type: ignore[attr-defined]
    yield found
    await found.close()


async def ask(validator, text: str, timeout_s: float = 5.0, **params):
    rule = ValidatorRule(name="shout", params=params)
    async with asyncio.timeout(timeout_s):
        (found,) = await validator.check([Document(text)], rule)
    return found


async def test_a_version_serves_after_its_examples_and_names_its_hash(root, registry):
    install(root, "1.0.0")
    validator = await registry.activate("shout", "1.0.0")
    found = await ask(validator, "that is bad")
    assert [(s.start, s.end, s.label) for s in found.spans] == [(8, 11, "BAD")]
    (version,) = registry.available()
    assert validator.version == f"1.0.0+{version.digest[:8]}"


async def test_a_version_that_fails_its_examples_or_does_not_start_changes_nothing(root, registry):
    install(root, "1.0.0")
    install(root, "2.0.0", positives=["no such thing"])
    install(root, "3.0.0", code="raise SystemExit(1)")
    install(root, "4.0.0", negatives=["bad as well"])
    before = await registry.activate("shout", "1.0.0")
    for version in ("2.0.0", "3.0.0", "4.0.0"):
        with pytest.raises(InvalidInputError):
            await registry.activate("shout", version)
    with pytest.raises(NotFoundError):
        await registry.activate("shout", "9.0.0")
    assert registry.serving()["shout"] is before
    assert (await ask(before, "bad")).spans


async def test_a_plug_in_cannot_take_the_name_of_a_validator(root):
    install(root, "1.0.0")
    with pytest.raises(ConflictError):
        await PluginRegistry(
            {"shout": cast(Any, object())},
            root,
            memory_bytes=1 << 28,
            pool=ThreadPoolExecutor(1),
        ).activate("shout", "1.0.0")


@pytest.mark.parametrize(
    "text",
    ["crash", "raise", "allocate", "outside", "label", "score", "few", "shape", "fork", "write"],
)
async def test_whatever_a_plug_in_does_is_an_error_and_the_next_call_works(root, registry, text):
    install(root, "1.0.0", CHAOS)
    validator = await registry.activate("shout", "1.0.0")
    assert (await ask(validator, text)).status is Status.ERROR
    assert (await ask(validator, "bad")).spans


async def test_a_plug_in_sees_no_environment_of_the_service(root, registry):
    install(root, "1.0.0", CHAOS)
    validator = await registry.activate("shout", "1.0.0")
    assert (await ask(validator, "secrets")).spans == ()


MAY_UNSHARE = (
    "import ctypes; c = ctypes.CDLL(None); "
    "raise SystemExit(c.unshare(0x40000000) and c.unshare(0x50000000))"
)


@pytest.mark.skipif(
    subprocess.run([sys.executable, "-c", MAY_UNSHARE], check=False).returncode != 0,
    reason="this machine permits no network namespace of one's own",
)
async def test_a_plug_in_reaches_no_network(root, registry):
    install(root, "1.0.0", CHAOS)
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    validator = await registry.activate("shout", "1.0.0")
    assert (await ask(validator, "network", options=port)).status is Status.ERROR
    server.close()


async def test_a_loop_is_killed_at_the_deadline_and_the_loop_of_the_service_goes_on(root, registry):
    install(root, "1.0.0", CHAOS)
    validator = await registry.activate("shout", "1.0.0")
    pid = validator.process.pid
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    with pytest.raises(TimeoutError):
        await ask(validator, "loop", timeout_s=0.5)
    ticking.cancel()
    assert ticks >= 10
    assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert (await ask(validator, "bad")).spans


async def test_three_crashes_within_a_minute_disable_the_version_once(root, registry):
    install(root, "1.0.0", CHAOS)
    validator = await registry.activate("shout", "1.0.0")
    for _ in range(3):
        assert (await ask(validator, "crash")).status is Status.ERROR
    began = time.monotonic()
    assert (await ask(validator, "bad")).status is Status.ERROR
    assert time.monotonic() - began < 0.5
    assert registry.disabled_seen == [("shout", "1.0.0")]


async def test_a_caller_in_a_hurry_does_not_disable_a_plug_in(root, registry):
    install(root, "1.0.0", CHAOS)
    validator = await registry.activate("shout", "1.0.0")
    for _ in range(4):
        with pytest.raises(TimeoutError):
            await ask(validator, "loop", timeout_s=0.01)
    assert (await ask(validator, "bad")).spans
    assert registry.disabled_seen == []


async def test_swaps_under_load_fail_no_request(root, registry):
    for number in range(6):
        install(root, f"{number}.0.0")
    guard = Guard({}, NoCache(), BuiltinPolicies(), b"s" * 32)
    registry._table = guard.validators
    rule = ValidatorRule(name="shout", action=Action.FLAG)
    policy = Policy(id="p", version="1", body=PolicyBody(validators=(rule,)))
    await registry.activate("shout", "0.0.0")
    stop, versions, failures = False, set(), 0

    async def load() -> None:
        nonlocal failures
        while not stop:
            ((verdict,),) = await guard.verdicts(["bad one"], policy=policy, rules=(rule,))
            failures += verdict.status is not Status.OK or verdict.labels != ["BAD"]
            versions.add(verdict.version)
            await asyncio.sleep(0.005)

    loads = [asyncio.create_task(load()) for _ in range(4)]
    for number in range(1, 6):
        await registry.activate("shout", f"{number}.0.0")
        await asyncio.sleep(0.05)
    stop = True
    await asyncio.gather(*loads)
    assert failures == 0
    assert len(versions) >= 4


async def test_over_http_a_plug_in_takes_part_in_a_policy_and_survives_a_restart(
    root, settings, recorder
):
    install(root, "1.0.0")
    changed = settings.model_copy(update={"plugins_path": root})
    body = {"id": "own", "draft": {"validators": [{"name": "shout", "action": "block"}]}}
    async with serving(changed, recorder) as client:
        assert (await client.post("/v1/guardrails/policies", json=body)).status_code == 422
        swapped = await client.post(
            "/v1/guardrails/plugins/shout/activate", json={"version": "1.0.0"}
        )
        assert swapped.status_code == 200
        assert (await client.post("/v1/guardrails/policies", json=body)).status_code == 201
        await client.post("/v1/guardrails/policies/own/publish")
        assert [e.data["what"] for e in recorder.events if e.type == "validator.changed"] == [
            "activated"
        ]
    async with serving(changed, recorder) as client:
        deadline = time.monotonic() + 20
        while True:
            (item,) = (await client.get("/v1/guardrails/plugins")).json()["items"]
            if item["status"] == "serving" or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.05)
        ask = {"text": "so bad", "policy": "own"}
        answer = (await client.post("/v1/guardrails/validate", json=ask)).json()
        assert (answer["action"], answer["status"]) == ("block", "success")


async def test_a_trial_over_http_is_taken_back_by_itself_and_recorded(root, settings, recorder):
    install(root, "1.0.0")
    install(root, "2.0.0", code=NORMAL.replace('"bad" in t', '"bad" in t and len(t) < 9'))
    changed = settings.model_copy(update={"plugins_path": root, "cache_default_ttl_s": 0})
    body = {"id": "own", "draft": {"validators": [{"name": "shout", "action": "block"}]}}
    base = "/v1/guardrails/plugins/shout"
    async with serving(changed, recorder) as client:
        plan = {"version": "2.0.0", "mode": "shadow", "stages": [{"weight": 1.0}]}
        assert (await client.post(f"{base}/trial", json=plan)).status_code == 404
        await client.post(f"{base}/activate", json={"version": "1.0.0"})
        await client.post("/v1/guardrails/policies", json=body)
        await client.post("/v1/guardrails/policies/own/publish")
        assert (await client.post(f"{base}/trial", json=plan)).status_code == 201
        again = await client.post(f"{base}/trial", json=plan)
        assert again.status_code == 409
        deadline = time.monotonic() + 30
        number = 0
        while (await client.get(f"{base}/trial")).status_code == 200:
            assert time.monotonic() < deadline
            texts = [f"this text is bad {number} {index}" for index in range(20)]
            number += 1
            reply = await client.post(
                "/v1/guardrails/validate/batch", json={"texts": texts, "policy": "own"}
            )
            assert {item["action"] for item in reply.json()["results"]} == {"block"}
        (item, _) = (await client.get("/v1/guardrails/plugins")).json()["items"]
        assert (item["version"], item["status"]) == ("1.0.0", "serving")
        while len(ends := [e.data for e in recorder.events if e.type == "rollout.changed"]) < 2:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        assert [end["what"] for end in ends] == ["started", "rollback"]
        assert ends[1]["reason"] in {"disagreement", "latency"}  # a crowded machine is slow too
        await client.post(f"{base}/trial", json={**plan, "mode": "canary"})
        ended = await client.post(f"{base}/trial/end", json={"action": "promote"})
        assert ended.json()["status"] == "promoted"
        items = (await client.get("/v1/guardrails/plugins")).json()["items"]
        assert [item["status"] for item in items] == ["available", "serving"]


async def test_a_trial_is_one_across_processes_and_goes_on_after_a_restart(
    root, settings, recorder
):
    install(root, "1.0.0")
    install(root, "2.0.0", code=NORMAL.replace('"bad" in t', '"bad" in t and len(t) < 9'))
    changed = settings.model_copy(update={"plugins_path": root, "cache_default_ttl_s": 0})
    body = {"id": "own", "draft": {"validators": [{"name": "shout", "action": "block"}]}}
    base = "/v1/guardrails/plugins/shout"
    plan = {"version": "2.0.0", "mode": "shadow", "stages": [{"weight": 1.0}]}

    async def seen(client, status: int, at_least: int = 0) -> dict[str, Any]:
        deadline = time.monotonic() + 15
        while True:
            reply = await client.get(f"{base}/trial")
            counts = reply.json().get("counts", {}) if reply.status_code == 200 else {}
            pairs = sum(value for key, value in counts.items() if key.endswith("/pair"))
            if reply.status_code == status and pairs >= at_least:
                return dict(reply.json())
            assert time.monotonic() < deadline, reply.json().get("counts")
            await asyncio.sleep(0.1)

    async with serving(changed, recorder) as one:
        await one.post(f"{base}/activate", json={"version": "1.0.0"})
        await one.post("/v1/guardrails/policies", json=body)
        await one.post("/v1/guardrails/policies/own/publish")
        started = (await one.post(f"{base}/trial", json=plan)).json()
        # Both agree about short texts: evidence gathers, nothing is taken back.
        texts = [f"bad {index}" for index in range(20)]
        ask = {"texts": texts, "policy": "own"}
        reply = await one.post("/v1/guardrails/validate/batch", json=ask)
        assert {item["action"] for item in reply.json()["results"]} == {"block"}
        await seen(one, 200, 20)
    async with serving(changed, recorder) as two, serving(changed, recorder) as three:
        for client in (two, three):
            found = await seen(client, 200, 20)
            assert (found["id"], found["status"]) == (started["id"], "running")
        # A second trial anywhere is refused; differences seen by one process end it in both.
        assert (await three.post(f"{base}/trial", json=plan)).status_code == 409
        number = 0
        while (await two.get(f"{base}/trial")).status_code == 200:
            texts = [f"this text is bad {number} {index}" for index in range(20)]
            number += 1
            await two.post("/v1/guardrails/validate/batch", json={"texts": texts, "policy": "own"})
            assert number < 200
        await seen(three, 404)
        items = (await three.get("/v1/guardrails/plugins")).json()["items"]
        assert [item["status"] for item in items] == ["serving", "available"]
    ends = [e.data["what"] for e in recorder.events if e.type == "rollout.changed"]
    assert ends == ["started", "rollback"]
