"""The organisation's floor: what every policy is at least as strict as.

The stricter of both holds: validators of the floor always run, actions and thresholds are the
stricter ones, a failed check is closed if either says so, and an allow-list entry counts only if
the floor has it too.
"""

from collections.abc import Mapping
from typing import Any

from services.guardrails.domain.policy import Policy, PolicyBody, ValidatorRule
from services.guardrails.domain.verdict import Action, strictest

_LISTS = frozenset({"entities", "countries", "words"})


def raised(policy: Policy, floor: PolicyBody | None) -> Policy:
    """Give the policy raised to the floor."""
    if floor is None:
        return policy
    body = policy.body
    floors = {rule.name: rule for rule in floor.validators}
    rules = [
        _stricter(rule, floors.pop(rule.name)) if rule.name in floors else rule
        for rule in body.validators
    ]
    raised_body = body.model_copy(update={"validators": (*rules, *floors.values())})
    return Policy(id=policy.id, version=policy.version, body=raised_body)


def _stricter(rule: ValidatorRule, floor: ValidatorRule) -> ValidatorRule:
    labels = {*rule.actions, *floor.actions}
    of_labels = {
        label: strictest([rule.action_of(label), floor.action_of(label)]) for label in labels
    }
    names = {*rule.thresholds, *floor.thresholds}
    thresholds = {name: min(rule.threshold_of(name), floor.threshold_of(name)) for name in names}
    action = strictest([rule.action, floor.action])
    return rule.model_copy(
        update={
            "params": _params(rule.params, floor.params),
            "threshold": min(rule.threshold, floor.threshold),
            "thresholds": thresholds,
            "action": action,
            "actions": of_labels,
            "operators": rule.operators if action is not Action.MASK else _operators(rule, floor),
            "on_error": "closed" if "closed" in {rule.on_error, floor.on_error} else "open",
            "timeout_ms": max(rule.timeout_ms, floor.timeout_ms),
            "allow_list": tuple(entry for entry in rule.allow_list if entry in floor.allow_list),
        }
    )


def _operators(rule: ValidatorRule, floor: ValidatorRule) -> dict[str, Any]:
    """Take the policy's operators, but none that shows what the floor hides."""
    hiding = {label: spec for label, spec in rule.operators.items() if spec.type != "keep"}
    return {**floor.operators, **hiding}


def _params(own: Mapping[str, Any], floor: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**floor, **own}
    for name in own.keys() & floor.keys():
        if name in _LISTS:
            merged[name] = list(dict.fromkeys([*own[name], *floor[name]]))
        elif isinstance(floor[name], Mapping) and isinstance(own[name], Mapping):
            merged[name] = {**own[name], **floor[name]}
        elif isinstance(floor[name], bool):
            merged[name] = own[name] or floor[name]
        elif name.endswith("_max"):
            merged[name] = min(own[name], floor[name])
        elif name.endswith("_min"):
            merged[name] = max(own[name], floor[name])
    # A policy that names entities looks for these only; a floor that names none wants them all.
    if "entities" in own and "entities" not in floor:
        del merged["entities"]
    return merged
