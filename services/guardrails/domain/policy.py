"""Policies: which validators run, with which thresholds, actions, operators and failure rules.

A published version is immutable. The built-in policy `default` is what a tenant has before it
publishes one of its own; `strict` adds the guard model, `private` the entity model. Built-in ids
cannot be taken.
"""

import hashlib
from functools import cached_property
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

    def threshold_of(self, label: str, calibrated: float | None = None) -> float:
        """Give the lowest score that counts for a label.

        Args:
            label: of the finding.
            calibrated: the model's own threshold; the policy's for this label comes first.
        """
        return self.thresholds.get(label, self.threshold if calibrated is None else calibrated)

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

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what it says: drafts change, and a floor raises, under one version."""
        return hashlib.sha256(self.body.model_dump_json().encode()).hexdigest()

    def only(self, names: tuple[str, ...]) -> "Policy":
        """Give the policy restricted to some of its validators."""
        kept = tuple(rule for rule in self.body.validators if rule.name in names)
        body = self.body.model_copy(update={"validators": kept})
        return Policy(id=self.id, version=self.version, body=body)


def _builtin(policy_id: str, *validators: ValidatorRule) -> Policy:
    return Policy(id=policy_id, version="1", body=PolicyBody(validators=validators))


_PII = ValidatorRule(name="pii", action=Action.MASK)
_SECRETS = ValidatorRule(name="secrets", action=Action.MASK)
_MALICIOUS = ValidatorRule(name="malicious", action=Action.FLAG)
# Rules in this process only: answers without inference, and is fast.
DEFAULT_POLICY = _builtin(
    "default",
    _PII,
    _SECRETS,
    ValidatorRule(name="injection", action=Action.BLOCK),
    _MALICIOUS,
)
# Rules and the guard model. Without inference its answers are PARTIAL, and an injection check that
# did not run whole blocks.
STRICT_POLICY = _builtin(
    "strict",
    _PII,
    _SECRETS,
    ValidatorRule(name="injection", params={"model": True}, action=Action.BLOCK),
    _MALICIOUS,
    ValidatorRule(
        name="toxicity",
        action=Action.BLOCK,
        actions=dict.fromkeys(("toxic", "violence", "self_harm", "sexual"), Action.FLAG),
        on_error="open",
    ),
)
# As `default`, with names, places, organisations and addresses by the entity model. Without
# inference a text that could not be read for names is blocked.
PRIVATE_POLICY = _builtin(
    "private",
    ValidatorRule(name="pii", params={"model": True}, action=Action.MASK),
    _SECRETS,
    ValidatorRule(name="injection", action=Action.BLOCK),
    _MALICIOUS,
)
BUILTIN: dict[str, Policy] = {
    policy.id: policy for policy in (DEFAULT_POLICY, STRICT_POLICY, PRIVATE_POLICY)
}


def builtin(reference: str) -> Policy | None:
    """Give the built-in policy that a reference names; None for any other."""
    policy_id, _, version = reference.partition("@")
    return BUILTIN.get(policy_id) if version in {"", "1"} else None
