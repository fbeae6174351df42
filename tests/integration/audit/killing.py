"""`python -m tests.integration.audit.killing`: kill -9 at eight points, round after round.

After all rounds: what was acknowledged is in the log, each event once, without a gap; the whole log
checks; and every checkpoint that was ever published is consistent with the last.
"""

import argparse
import asyncio
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import asyncpg
import orjson

from deploy.local.servers import EmbeddedPostgres
from libs.cli.audit_database import check_database
from libs.common.migrations import migrate
from libs.common.transparency.note import VerifierKey
from libs.common.transparency.policy import Policy
from tests.integration.audit.process import ROOT
from tests.integration.audit.victim import POINTS

ROUND_S = 90


def one_round(url: str, directory: Path, point: str, passes: int, seed: int) -> int:
    """Run a victim to its end; give its exit code (-9 when it killed itself)."""
    arguments = [url, str(directory), point, str(passes), str(seed)]
    command = [sys.executable, "-m", "tests.integration.audit.victim", *arguments]
    return subprocess.run(command, cwd=ROOT, timeout=ROUND_S, check=False).returncode


async def judge(url: str, directory: Path) -> dict[str, int]:
    """Check acknowledged against logged, the whole log, and all published checkpoints.

    Raises:
        AssertionError: something was lost, doubled or contradicts.
        VerificationError: the log does not check.
    """
    acknowledged = (directory / "acknowledged").read_text().split()
    published = [orjson.loads(line) for line in (directory / "published").read_bytes().splitlines()]
    connection = await asyncpg.connect(url, server_settings={"search_path": "audit"})
    try:
        rows = await connection.fetch("SELECT id, index FROM event_dedup ORDER BY index")
        assert [row["index"] for row in rows] == list(range(len(rows))), "the indices have a gap"
        logged = Counter(row["id"] for row in rows)
        lost = [name for name in acknowledged if logged[name] != 1]
        assert not lost, f"{len(lost)} acknowledged events are not logged exactly once"
        key = VerifierKey.parse((directory / "keys" / "log.vkey").read_text())
        found = await check_database(connection, Policy(key), kept=published)
    finally:
        await connection.close()
    return {
        "acknowledged": len(acknowledged),
        "logged": len(rows),
        "published": len(published),
        "leaves_checked": found.leaves,
    }


async def run_rounds(url: str, directory: Path, rounds: int, seed: int) -> dict[str, int]:
    """Kill in turn at every point, then let one run end in peace, and judge."""
    draw = random.Random(seed)
    for number in range(rounds):
        point = POINTS[number % len(POINTS)]
        passes = draw.randint(1, 40 if point in ("after_emit", "mid_frame") else 6)
        code = await asyncio.to_thread(
            one_round, url, directory, point, passes, draw.randrange(10**6)
        )
        print(f"round {number + 1}/{rounds}: {point}", flush=True)
        assert code == -signal.SIGKILL, f"round {number} at {point} ended with {code}"
    assert await asyncio.to_thread(one_round, url, directory, "", 0, 0) == 0
    return await judge(url, directory)


async def _main(rounds: int, seed: int) -> int:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gh-") as name:
        directory = Path(name)
        server = EmbeddedPostgres(directory / "pg")
        url = server.start()
        try:
            await migrate(url, ["audit"])
            (directory / "state").mkdir()
            facts = await run_rounds(url, directory / "state", rounds, seed)
        finally:
            server.stop()
    print(f"{rounds} rounds over {len(POINTS)} points in {time.monotonic() - began:.0f} s: {facts}")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=7)
    chosen = parser.parse_args()
    sys.exit(asyncio.run(_main(chosen.rounds, chosen.seed)))
