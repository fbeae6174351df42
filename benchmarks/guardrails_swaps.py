"""Swaps of a validator's version under load: how many requests fail.

    python -m benchmarks.guardrails_swaps [--swaps 100] [--lanes 8]

Plug-in versions in processes of their own and uploaded rule sets take turns under one policy each;
every answer must be whole (status `success`) and by one of the versions.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from services.guardrails.adapters.builtin_policies import BuiltinPolicies
from services.guardrails.adapters.plugins import PluginRegistry
from services.guardrails.adapters.redis_cache import NoCache
from services.guardrails.adapters.rule_sets import RuleSetVersion
from services.guardrails.domain.guard import Guard
from services.guardrails.domain.policy import Policy, PolicyBody, ValidatorRule
from services.guardrails.domain.rulesets import RuleSet
from services.guardrails.domain.verdict import Action, Status

RESULT = Path(__file__).parent / "results" / "guardrails_swaps.json"
_CODE = """
class Validator:
    def check(self, texts, context):
        return [[[0, 3, "BAD", 1.0]] if t.startswith("bad") else [] for t in texts]
"""
_VERSIONS = ("1.0.0", "2.0.0")


def _install(root: Path) -> None:
    for folder in (root, root / "shout"):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
    for version in _VERSIONS:
        folder = root / "shout" / version
        folder.mkdir()
        (folder / "shout_plugin.py").write_text(_CODE)
        manifest = {
            "name": "shout", "version": version, "entry_point": "shout_plugin:Validator",
            "labels": ["BAD"], "max_span": 3, "positives": ["bad"], "negatives": ["good"],
        }  # fmt: skip
        (folder / "manifest.json").write_text(json.dumps(manifest))


def _rule_set(version: str) -> RuleSetVersion:
    rule = {"name": "bad", "label": "BAD", "pattern": r"\bbad\b",
            "positives": ["«bad»"], "negatives": ["good"]}  # fmt: skip
    body = {"name": "house", "version": version, "rules": [rule]}
    return RuleSetVersion(RuleSet.model_validate(body), "bench")


async def _swap(guard: Guard, registry: PluginRegistry, name: str, swaps: int, lanes: int) -> Any:
    rule = ValidatorRule(name=name, action=Action.BLOCK)
    policy = Policy(id="swaps", version="1", body=PolicyBody(validators=(rule,)))
    await registry.activate(name, _VERSIONS[0])
    outcomes: Counter[str] = Counter()
    versions: set[str] = set()
    is_over = False

    async def work() -> None:
        while not is_over:
            ((verdict,),) = await guard.verdicts(["bad"], policy=policy, rules=(rule,))
            is_fine = verdict.status is Status.OK and verdict.action is Action.BLOCK
            outcomes["answered" if is_fine else "failed"] += 1
            versions.add(verdict.version)
            await asyncio.sleep(0)

    working = [asyncio.create_task(work()) for _ in range(lanes)]
    began = time.perf_counter()
    for number in range(1, swaps + 1):
        await registry.activate(name, _VERSIONS[number % 2])
    seconds = time.perf_counter() - began
    is_over = True
    await asyncio.gather(*working)
    return {
        "swaps": swaps,
        "versions that answered": len(versions),
        "requests": sum(outcomes.values()),
        "failed": outcomes["failed"],
        "ms per swap": round(seconds / swaps * 1e3, 1),
    }


async def measure(swaps: int, lanes: int) -> dict[str, Any]:
    """Swap plug-ins and rule sets while requests run."""
    with (
        tempfile.TemporaryDirectory(prefix="gh-swaps-") as name,
        ThreadPoolExecutor(2) as pool,
    ):
        root = Path(name)
        _install(root)
        guard = Guard({}, NoCache(), BuiltinPolicies(), b"s" * 32)
        registry = PluginRegistry(guard.validators, root, memory_bytes=256 << 20, pool=pool)
        for version in _VERSIONS:
            registry.learn(_rule_set(version))
        try:
            return {
                "plug-ins": await _swap(guard, registry, "shout", swaps, lanes),
                "rule sets": await _swap(guard, registry, "house", swaps, lanes),
            }
        finally:
            await registry.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Swap and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--swaps", type=int, default=100)
    parser.add_argument("--lanes", type=int, default=8)
    asked = parser.parse_args(arguments)
    report = asyncio.run(measure(asked.swaps, asked.lanes))
    print(json.dumps(report, indent=1))
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"arguments": vars(asked), "results": report}, indent=1))


if __name__ == "__main__":
    main()
