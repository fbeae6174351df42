"""Trials of validator versions without a difference: how many are taken back.

    python -m benchmarks.guardrails_trials [--null-runs 1000] [--texts 600] [--seed 1]

Runs the real `Trial` with two equal versions, half of the texts each, judged after every text.
"""

import argparse
import asyncio
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path

from libs.common.rollouts import Mode, Plan, Stage
from services.guardrails.domain.document import Document
from services.guardrails.domain.policy import ValidatorRule
from services.guardrails.domain.trial import Trial
from services.guardrails.domain.verdict import Action, Detection, Span

RESULT = Path(__file__).parent / "results" / "guardrails_trials.json"
_RULE = ValidatorRule(name="shout", action=Action.BLOCK)
_LABELS: tuple[str, ...] = ("BAD",)


class Word:
    """A validator that finds one word."""

    name, kind, labels, max_span, lookahead = "shout", "pattern", _LABELS, 3, 0

    def __init__(self, version: str) -> None:
        self.version = version

    def parse(self, params: object) -> None:
        """Accept anything."""

    async def check(self, documents: Sequence[Document], rule: ValidatorRule) -> list[Detection]:
        """Find `bad` at the start."""
        found = (Span(0, 3, "BAD", 1.0),)
        return [
            Detection(spans=found if document.text.startswith("bad") else (), version=self.version)
            for document in documents
        ]


async def null_run(seed: int, texts: int) -> str:
    """Run one trial of equals; give how it ended."""
    draw = random.Random(seed)
    trial = Trial(f"null{seed}", Plan(Mode.CANARY, (Stage(5_000),)), Word("1"), Word("2"))
    for number in range(texts):
        text = f"{'bad' if draw.random() < 0.3 else 'fine'} {number} {draw.random()}"
        await trial.check([Document(text)], _RULE)
        await trial.settle()
        if trial.ended:
            break
    return trial.ended or "running"


async def _all(runs: int, texts: int, seed: int) -> list[str]:
    return [await null_run(seed * 1_000_003 + number, texts) for number in range(runs)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--null-runs", type=int, default=1_000)
    parser.add_argument("--texts", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args(arguments)
    began = time.perf_counter()
    ends = asyncio.run(_all(asked.null_runs, asked.texts, asked.seed))
    report = {
        "null_runs": len(ends),
        "texts": asked.texts,
        "rolled_back": ends.count("rolled_back"),
        "seconds": round(time.perf_counter() - began, 1),
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(report, indent=1))
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
