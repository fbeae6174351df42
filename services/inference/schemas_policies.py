"""Wire models of decision policies; requests are strict."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from libs.common.errors import InvalidInputError
from services.inference.domain.scoring import RiskBands

Threshold = Annotated[float, Field(strict=True, gt=0, le=1, allow_inf_nan=False)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Thresholds(_Request):
    """Probability from which each action is taken; they must not fall."""

    review: Threshold
    challenge: Threshold
    decline: Threshold

    def bands(self) -> RiskBands:
        """Give the bands.

        Raises:
            InvalidInputError: names the first threshold that lies below the one before it.
        """
        if self.challenge < self.review:
            raise InvalidInputError.field("/thresholds/challenge", "must not be below review")
        if self.decline < self.challenge:
            raise InvalidInputError.field("/thresholds/decline", "must not be below challenge")
        return RiskBands(self.review, self.challenge, self.decline)


class PolicyRequest(_Request):
    """The next version of the caller's tenant."""

    thresholds: Thresholds
    review_amount: (
        Annotated[float, Field(strict=True, ge=0, le=1e9, allow_inf_nan=False)] | None
    ) = Field(
        None,
        description="While features cannot be read, payments from this amount on (base currency) "
        "are at least reviewed; absent keeps the installation's.",
    )
    reason: Annotated[str, Field(strict=True, max_length=200)] = Field(
        "", description="Why, for the audit log."
    )
    version: Annotated[int, Field(strict=True, ge=0)] | None = Field(
        None, description="Version that this was decided on, 0 for none; else 409."
    )
