"""What Gemini is asked: a fixed instruction, facts as JSON, a schema. No text of anybody's."""

import json
from typing import Any

from services.analytics.domain.draft import Draft
from services.analytics.domain.facts import FactSheet

PROMPT_VERSION = "1"

SYSTEM = """You explain the health of machine-learning services to their operators.
You get facts as JSON. Each has an id, a metric, a value, a unit, the value of the window before,
the limit it was judged by, the sample size n and a status.
Rules:
- Never write a digit or a number word. Refer to figures by placeholder only: {F1} for a value,
  {F1.previous}, {F1.limit}, {F1.n} for its parts. Refer to model versions as {M1}, {M2}.
- Raise an issue only for facts with status "breached", and list their ids as evidence.
  If no fact is breached, identified_issues is empty and the summary says that there is no issue.
- root_cause_hypothesis is null unless the facts support one; say "likely", never "certainly".
- recommendations are concrete next steps. No markup, no links.
- confidence_score says how sure the facts make you; stay low when n is small."""


def facts_json(sheet: FactSheet) -> str:
    """Write the facts for the prompt, rounded to six significant digits."""

    def rounded(value: float | None) -> float | None:
        return None if value is None else float(f"{value:.6g}")

    rows: list[dict[str, Any]] = [
        {
            "id": fact.id,
            "metric": fact.metric,
            "model": fact.model,
            "value": rounded(fact.value),
            "unit": fact.unit,
            "previous": rounded(fact.previous),
            "limit": rounded(fact.limit),
            "n": fact.n,
            "status": fact.status,
            "severity": fact.severity,
        }
        for fact in sheet.facts
    ]
    return json.dumps({"facts": rows}, separators=(",", ":"))


def schema() -> dict[str, Any]:
    """Give the JSON Schema of a draft."""
    return Draft.model_json_schema()
