"""Labels that arrive after the answer: how they are named, and when one contradicts an answer.

Features writes each label into one Redis stream, under a hash of what it names; whoever runs a
rollout remembers its answers under the same hash. No id and no subject is in either.
"""

from hashlib import blake2b

# Stream of features: one entry per label, fields `ref` and `label`; the oldest give way.
LABELS_STREAM = "features:labels"
LABELS_KEPT = 100_000
_YES = frozenset({"1", "true", "yes", "fraud", "chargeback", "clicked", "purchased"})
_NO = frozenset({"0", "false", "no", "legit", "legitimate", "genuine", "ignored"})


def label_ref(tenant: str, kind: str, name: str) -> str:
    """Name what a label is about.

    Args:
        tenant: whose it is.
        kind: `transaction` or `prediction`.
        name: its id; length-prefixing keeps ("a", "bc") and ("ab", "c") apart.
    """
    text = f"{len(tenant)}:{tenant}{kind}:{name}"
    return blake2b(text.encode(), digest_size=16).hexdigest()


def is_positive(label: str) -> bool | None:
    """Read the label of a yes-or-no decision; None when it is neither."""
    word = label.strip().lower()
    if word in _YES:
        return True
    return False if word in _NO else None


def contradicts(decision: str, label: str) -> bool | None:
    """Say whether a label contradicts a decision; None when the two cannot be compared.

    Args:
        decision: `yes` or `no`, or the label that a classifier gave.
        label: as it arrived; for a classifier `true` and `false` say whether it was right.
    """
    truth = is_positive(label)
    if decision in {"yes", "no"}:
        return None if truth is None else truth is not (decision == "yes")
    word = label.strip().lower()
    if word in {"true", "false"}:
        return word == "false"
    return word != decision.lower()
