"""The steps of an erasure, and what the state of a job is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

State = Literal["pending", "running", "done"]


@dataclass(frozen=True, slots=True)
class Step:
    """One call that erases somewhere; repeating it changes nothing.

    Attributes:
        name: as shown.
        service / method / path: what is called.
        fields: names of the members of the body, by what they take from the data subject.
    """

    name: str
    service: str
    method: str
    path: str
    fields: tuple[tuple[str, Literal["entity", "id"]], ...] = ()

    def body(self, subject: Mapping[str, str]) -> dict[str, str] | None:
        """Give the body to send, or None where there is none."""
        return {name: subject[source] for name, source in self.fields} or None


STEPS = (
    Step(
        "features", "features", "POST", "/features/erasures",
        (("entity", "entity"), ("id", "id")),
    ),
    Step("audit", "audit", "POST", "/v1/audit/erasures", (("data_subject", "id"),)),
    Step("predictions_cache", "inference", "DELETE", "/v1/predictions/cache"),
    Step("verdicts_cache", "guardrails", "DELETE", "/v1/guardrails/cache"),
)  # fmt: skip


def first_states() -> list[dict[str, Any]]:
    """Give the steps of a new job."""
    return [
        {"step": step.name, "state": "pending", "attempts": 0, "detail": "not started"}
        for step in STEPS
    ]


def state_of(steps: Sequence[Mapping[str, Any]]) -> State:
    """Give the state of a job with these steps."""
    states = {step["state"] for step in steps}
    if states == {"done"}:
        return "done"
    return "pending" if all(step["attempts"] == 0 for step in steps) else "running"
