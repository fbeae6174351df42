"""How well the rules detect: personal data, secrets, disguises; both classes, with intervals.

    python -m benchmarks.guardrails_quality [--texts 4000] [--seed 1] [--data FOLDER]

Runs the detectors in this process at the thresholds of the policy `default`. The generated corpus
(guardrails_corpus.py) covers formats; with `--data`, the folder `pii/presidio-research` under it
is scored too (names, places, organisations, phones, addresses; nothing of it was fitted to).
Neural validators are measured against a running suite: `gatehouse guardrails evaluate`.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import guardrails_corpus
from benchmarks.guardrails_corpus import Text
from libs.cli import quality
from libs.cli.evasion import DISGUISES
from libs.cli.guardrails import read_rows
from libs.cli.quality import Marked, Measure
from services.guardrails.domain.decide import judge
from services.guardrails.domain.document import Document
from services.guardrails.domain.lexical import injection_validator, labelled_rules
from services.guardrails.domain.pii import PiiValidator
from services.guardrails.domain.policy import ValidatorRule
from services.guardrails.domain.rules import unmark
from services.guardrails.domain.secrets import SecretsValidator

RESULT = Path(__file__).parent / "results" / "guardrails_quality.json"
_RULE = ValidatorRule(name="pii")


def _found(validator: Any, params: dict[str, Any], text: str) -> list[Marked]:
    parsed = validator.parse(params)
    verdict = judge(text, _RULE, validator.detect(Document(text), parsed), "")
    return [Marked(span.start, span.end, span.label) for span in verdict.spans]


def corpus(texts: Sequence[Text], validator: Any, params: dict[str, Any]) -> Any:
    """Measure a validator on generated texts."""
    wanted = {span.label for text in texts for span in text.spans}
    found = [
        [span for span in _found(validator, params, text.text) if span.label in wanted]
        for text in texts
    ]
    return quality.spans([text.spans for text in texts], found)


def presidio(path: Path) -> Any:
    """Measure on the sentences of presidio-research."""
    rows = read_rows(path, with_spans=True)
    wanted = sorted({span.label for row in rows for span in row.spans})
    validator = PiiValidator()
    known = [label for label in wanted if label in validator.labels]
    found = [_found(validator, {"entities": known}, row.text) for row in rows]
    return quality.spans([row.spans for row in rows], found)


def evasion() -> dict[str, list[Measure]]:
    """Disguise every positive of the injection rules; how many stay detected, at right offsets."""
    validator = injection_validator()
    examples = [
        unmark(example)[0] for rule in labelled_rules("injection") for example in rule.positives
    ]
    examples = [text for text in examples if validator.detect(Document(text)).spans]
    report = {}
    for name, disguise in DISGUISES.items():
        hidden = [disguise(text) for text in examples]
        found = [validator.detect(Document(text)).spans for text in hidden]
        inside = [
            all(0 <= s.start < s.end <= len(text) for s in spans)
            for text, spans in zip(hidden, found, strict=True)
        ]
        report[name] = [
            quality.share("still detected", sum(map(bool, found)), len(examples)),
            quality.share("offsets within the text", sum(inside), len(inside)),
        ]
    return report


def table(title: str, groups: dict[str, list[Measure]]) -> None:
    """Print one group of measures as Markdown."""
    print(f"\n### {title}\n\n| | measure | value | 95 % interval | of |\n|---|---|---|---|---|")
    for group, measures in groups.items():
        for item in measures:
            value = "none" if item.value is None else f"{item.value:.3f}"
            interval = "" if item.low is None else f"{item.low:.3f} to {item.high:.3f}"
            print(f"| {group} | {item.name} | {value} | {interval} | {item.count} |")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=4_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--data", type=Path)
    asked = parser.parse_args(arguments)
    started = time.perf_counter()
    pii = list(guardrails_corpus.pii(asked.texts, asked.seed))
    secrets = list(guardrails_corpus.secrets(asked.texts, asked.seed))
    report = {
        "PII, generated": corpus(pii, PiiValidator(), {}),
        "secrets, generated": corpus(secrets, SecretsValidator(), {}),
        "evasion of the injection rules": evasion(),
    }
    if asked.data:
        path = asked.data / "pii/presidio-research/generated_large_no_synth_v2_templates.json"
        report["PII, presidio-research"] = presidio(path)
    for title, groups in report.items():
        table(title, groups)
    plain = {
        title: {group: [asdict(m) for m in measures] for group, measures in groups.items()}
        for title, groups in report.items()
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(plain, indent=1))
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
