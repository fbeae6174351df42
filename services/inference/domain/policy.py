"""A tenant's decision policy: from which probability on it reviews, challenges, declines; pure.

The policy is no part of a model: a model says how likely fraud is, the tenant says what to do about
it. Versions only grow; a version without thresholds gives the decision back to the model's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from services.inference.domain.scoring import RiskBands

# What a tenant without a policy of its own decides by: the thresholds of the model's manifest.
MODEL_POLICY = "model"


@dataclass(frozen=True, slots=True)
class DecisionPolicy:
    """One version of one tenant's policy for one model.

    Attributes:
        version: from 1, grows by one with each change.
        bands: thresholds; None gives the decision back to the model's own.
        review_amount: from here on a payment whose features cannot be read is at least reviewed,
            major units of the base currency; None leaves the installation's setting.
        reason: why it was changed, in the words of who did.
    """

    tenant: str
    model: str
    version: int
    bands: RiskBands | None
    review_amount: float | None
    reason: str
    changed_by: str
    changed_at: datetime

    def to_json(self) -> dict[str, Any]:
        """Give what decides, as it is stored and audited."""
        thresholds = None
        if self.bands is not None:
            thresholds = {
                "review": self.bands.review,
                "challenge": self.bands.challenge,
                "decline": self.bands.decline,
            }
        return {"thresholds": thresholds, "review_amount": self.review_amount}

    @staticmethod
    def read(document: dict[str, Any]) -> tuple[RiskBands | None, float | None]:
        """Read thresholds and amount back from `to_json`."""
        thresholds = document.get("thresholds")
        bands = RiskBands.from_manifest(thresholds) if thresholds is not None else None
        return bands, document.get("review_amount")


@dataclass(frozen=True, slots=True)
class Deciding:
    """What decides one answer: thresholds, amount, and the name of the policy that set them."""

    bands: RiskBands
    review_amount: float
    name: str


class PolicyStore(Protocol):
    """Where policies lie, shared by all replicas, every version of them.

    Failure policy: raises UnavailableError when the store is down; readers keep what they know.
    """

    async def current(self) -> Sequence[DecisionPolicy]:
        """Give the newest version of every tenant and model."""
        ...

    async def history(self, tenant: str, model: str) -> Sequence[DecisionPolicy]:
        """Give all versions of one policy, newest first; at most 100."""
        ...

    async def add(self, policy: DecisionPolicy) -> DecisionPolicy:
        """Add a version; ConflictError if somebody else added this number first."""
        ...
