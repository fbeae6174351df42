"""Redis and PostgreSQL paused, slow, cut off; a stop under load: callers hardly notice."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from services.gateway.bootstrap import ensure_demo_key
from services.gateway.settings import GatewaySettings
from tests.support.fake_upstream import fake_upstream
from tests.support.fault_proxy import FaultProxy, fault_proxy
from tests.support.gateway import SERVICES_BEHIND, RunningGateway, eventually, running_gateway

pytestmark = pytest.mark.anyio
# The bar is 60 ms; a shared two-core machine adds its own.
SLOWEST_S = 0.4


@asynccontextmanager
async def gateway_behind_faults(
    state_dir: Path, postgres: str, redis: str
) -> AsyncIterator[tuple[RunningGateway, FaultProxy, FaultProxy]]:
    """Give a gateway with a fault proxy before PostgreSQL and one before Redis."""
    folder = postgres.partition("host=")[2]
    async with (
        fault_proxy(unix_path=f"{folder}/.s.PGSQL.5432") as before_postgres,
        fault_proxy(unix_path=redis.removeprefix("unix://")) as before_redis,
        running_gateway(
            state_dir,
            f"postgresql://postgres:@127.0.0.1:{before_postgres.port}/postgres",
            f"redis://127.0.0.1:{before_redis.port}",
            redis_timeout_s=0.05,
            ip_burst_per_s=100_000,
            ip_limit_requests=10_000,
        ) as gateway,
    ):
        yield gateway, before_postgres, before_redis


def decisions(gateway: RunningGateway, layer: str) -> float:
    value = gateway.app.platform.registry.get_sample_value(
        "gatehouse_gateway_limit_decisions_total", {"layer": layer, "outcome": "allowed"}
    )
    return value or 0.0


async def timed(gateway: RunningGateway, key: str, count: int) -> list[float]:
    """Make calls that must all pass; give their seconds."""
    taken = []
    for _ in range(count):
        started = time.perf_counter()
        status, body, _ = await gateway.call("GET", "/models", key=key)
        assert status == 200, body
        taken.append(time.perf_counter() - started)
    return sorted(taken)


@pytest.mark.parametrize("fault", ["paused", "slow", "cut"])
@pytest.mark.parametrize("store", ["redis", "postgres"])
async def test_a_store_in_trouble_costs_little_and_comes_back(
    state_dir: Path,
    clean_postgres: str,
    redis_url: str,
    store: str,
    fault: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with gateway_behind_faults(state_dir, clean_postgres, redis_url) as (gateway, pg, rd):
        key = await gateway.make_key(scopes=["models:read"], limits={"requests_max": 900})
        await timed(gateway, key, 10)
        shared, local = ("key", "key_local") if store == "redis" else ("ip", "ip_local")

        async def is_shared() -> bool:
            before = decisions(gateway, shared)
            await timed(gateway, key, 1)
            return decisions(gateway, shared) > before

        await eventually(is_shared)
        capsys.readouterr()
        proxy = rd if store == "redis" else pg
        if fault == "paused":
            proxy.pause()
        elif fault == "slow":
            proxy.delay_s = 0.2
        else:
            proxy.refuses = True
            proxy.cut()
        before = decisions(gateway, local)
        taken = await timed(gateway, key, 60)
        assert taken[-1] < SLOWEST_S
        assert taken[30] < 0.06
        assert decisions(gateway, local) - before >= 50
        written = capsys.readouterr()
        assert (written.out + written.err).count("limit store changed") <= 1
        proxy.delay_s, proxy.refuses = 0.0, False
        proxy.resume()
        started = time.monotonic()
        await eventually(is_shared, timeout_s=8)
        assert time.monotonic() - started < 5


async def test_with_postgres_paused_known_keys_pass_and_unknown_ones_get_503(
    state_dir: Path, clean_postgres: str, redis_url: str
) -> None:
    async with gateway_behind_faults(state_dir, clean_postgres, redis_url) as (gateway, pg, _):
        key = await gateway.make_key(scopes=["models:read"])
        other = await gateway.make_key(scopes=["models:read"])
        await timed(gateway, key, 2)
        pg.pause()
        await timed(gateway, key, 5)
        status, problem, _ = await gateway.call("GET", "/models", key=other)
        assert (status, problem["code"]) == (503, "unavailable")
        body = {"name": "n", "scopes": ["models:read"]}
        started = time.monotonic()
        assert (await gateway.call("POST", "/v1/auth/keys", json=body))[0] >= 500
        assert time.monotonic() - started < 16  # a statement 5 s, a new connection 5 s
        pg.resume()


async def test_a_stop_under_load_fails_no_request(
    state_dir: Path, clean_postgres: str, redis_url: str
) -> None:
    settings = GatewaySettings.load(state_dir=state_dir, postgres_url=clean_postgres)
    key_file = state_dir / "demo-api-key"
    await ensure_demo_key(settings, key_file)
    async with fake_upstream() as upstream:
        probe = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
        port = probe.sockets[0].getsockname()[1]
        probe.close()
        environment = {
            **os.environ,
            "STATE_DIR": str(state_dir),
            "POSTGRES_URL": clean_postgres,
            "REDIS_URL": redis_url,
            "GATEWAY_PORT": str(port),
            "DRAIN_S": "1.0",
            "LOG_FORMAT": "json",
            **{f"{name.upper()}_URL": upstream.url for name in SERVICES_BEHIND},
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.gateway", env=environment,
            stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        base, headers = f"http://127.0.0.1:{port}", {"X-API-Key": key_file.read_text().strip()}
        statuses: list[int] = []
        is_leaving = False

        async with aiohttp.ClientSession(headers=headers) as session:

            async def readiness() -> int:
                try:
                    async with session.get(f"{base}/readyz") as answer:
                        return answer.status
                except aiohttp.ClientError:
                    return 0

            async def is_ready() -> bool:
                return await readiness() == 200

            async def work() -> None:
                while not is_leaving:
                    async with session.post(f"{base}/score/fraud", json={"a": 1}) as answer:
                        await answer.read()
                        statuses.append(answer.status)

            try:
                await eventually(is_ready, timeout_s=30)
                workers = [asyncio.create_task(work()) for _ in range(8)]
                await asyncio.sleep(0.3)
                process.send_signal(signal.SIGTERM)

                async def is_draining() -> bool:
                    return await readiness() == 503

                # A load balancer: it looks at the readiness and sends no more.
                await eventually(is_draining, timeout_s=3)
                at_the_signal = len(statuses)
                await asyncio.sleep(0.2)
                is_leaving = True
                await asyncio.gather(*workers)
                assert await asyncio.wait_for(process.wait(), 20) == 0
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        assert len(statuses) > at_the_signal > 0
        assert set(statuses) == {200}
