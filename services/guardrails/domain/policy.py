"""Policies: which validators run, with which thresholds, actions, operators and failure rules.

A published version is immutable. The built-in policy `default` is what a tenant has before it
publishes one of its own.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from services.guardrails.domain.operators import REPLACE, OperatorSpec
from services.guardrails.domain.verdict import Action

POLICY_ID_PATTERN = "^[a-z0-9]{1,64}$"
VALIDATORS_MAX = 20


class ValidatorRule(BaseModel):
    """How one validator takes part in a policy.

    `threshold` drops findings with a lower score; `thresholds` and `actions` override it and
    `action` per label. `on_error` closed turns a failed check into a block, open into PARTIAL.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern="^[a-z][a-z0-9_]{0,63}$")
    params: dict[str, Any] = Field(default_factory=dict)
    threshold: float = Field(default=0.4, ge=0, le=1, allow_inf_nan=False)
    thresholds: dict[str, float] = Field(default_factory=dict, max_length=100)
    action: Action = Action.FLAG
    actions: dict[str, Action] = Field(default_factory=dict, max_length=100)
    operators: dict[str, OperatorSpec] = Field(default_factory=dict, max_length=100)
    on_error: Literal["open", "closed"] = "closed"
    timeout_ms: int = Field(default=1_000, ge=1, le=30_000)
    allow_list: tuple[str, ...] = Field(default=(), max_length=1_000)

    def threshold_of(self, label: str) -> float:
        """Give the lowest score that counts for a label."""
        return self.thresholds.get(label, self.threshold)

    def action_of(self, label: str) -> Action:
        """Give what a finding with this label leads to."""
        return self.actions.get(label, self.action)

    def operator_of(self, label: str) -> OperatorSpec:
        """Give the operator for a label: its own, `DEFAULT`, or replace by `<LABEL>`."""
        return self.operators.get(label) or self.operators.get("DEFAULT") or REPLACE


class PolicyBody(BaseModel):
    """What a draft holds and a publication freezes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    budget_ms: int = Field(default=2_000, ge=1, le=30_000)
    validators: tuple[ValidatorRule, ...] = Field(min_length=1, max_length=VALIDATORS_MAX)
    messages: dict[str, str] = Field(default_factory=dict, max_length=100)

    @model_validator(mode="after")
    def _names_are_unique(self) -> "PolicyBody":
        names = [rule.name for rule in self.validators]
        if len(set(names)) != len(names):
            raise ValueError("a validator may appear once")
        return self

    def rule(self, name: str) -> ValidatorRule | None:
        """Give the rule of a validator, if the policy has it."""
        return next((rule for rule in self.validators if rule.name == name), None)


class Policy(BaseModel):
    """A policy with its identity; `version` is a positive integer as text, or `draft`."""

    model_config = ConfigDict(frozen=True)

    id: str
    version: str
    body: PolicyBody

    def only(self, names: tuple[str, ...]) -> "Policy":
        """Give the policy restricted to some of its validators."""
        kept = tuple(rule for rule in self.body.validators if rule.name in names)
        return self.model_copy(update={"body": self.body.model_copy(update={"validators": kept})})


DEFAULT_POLICY = Policy(
    id="default",
    version="1",
    body=PolicyBody(
        validators=(
            ValidatorRule(name="pii", action=Action.MASK),
            ValidatorRule(name="secrets", action=Action.MASK),
            ValidatorRule(name="injection", action=Action.BLOCK),
            ValidatorRule(name="malicious", action=Action.FLAG),
        )
    ),
)
