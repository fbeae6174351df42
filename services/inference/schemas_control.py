"""Wire models of the lifecycle and of rollouts; requests are strict, weights are shares of 1."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from libs.common.errors import InvalidInputError
from libs.common.rollouts import BUCKETS, Limits, Mode, Plan, PlanError, Stage

Version = Annotated[str, Field(strict=True, pattern=r"^[1-9][0-9]{0,8}$")]
Generation = Annotated[int, Field(strict=True, ge=0)]
_CANARY = (0.01, 0.05, 0.25, 1.0)


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Expected(_Request):
    """Optional body of a change: the generation that it was decided on, else 409."""

    generation: Generation | None = None


class AliasRequest(Expected):
    """Where an alias shall point."""

    version: Version


class StageRequest(_Request):
    """One step of a canary."""

    weight: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
    min_requests: Annotated[int, Field(strict=True, ge=0, le=10_000_000)] = 2_000
    min_seconds: Annotated[float, Field(ge=0, le=2_592_000, allow_inf_nan=False)] = 600.0


Share = Annotated[float, Field(gt=0, le=0.5, allow_inf_nan=False)]


_LIMITS = Limits()


class LimitsRequest(_Request):
    """What counts as worse; what is absent has the judge's default."""

    false_alarm: Share = _LIMITS.false_alarm
    max_error_rate: Share = _LIMITS.max_error_rate
    max_slow_rate: Share = _LIMITS.max_slow_rate
    max_flip_rate: Share = _LIMITS.max_flip_rate
    max_score_ratio: Annotated[float, Field(ge=1, le=100, allow_inf_nan=False)] = (
        _LIMITS.max_score_ratio
    )


class RolloutRequest(_Request):
    """A rollout: a candidate beside the version that serves."""

    candidate: Version
    mode: Literal["shadow", "canary", "ab"]
    stages: list[StageRequest] | None = Field(None, min_length=1, max_length=20)
    weights: dict[Version, Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]] | None = (
        Field(None, description="Percent by version, for mode ab; they sum to 100.")
    )
    limits: LimitsRequest = LimitsRequest()
    auto_promote: Annotated[bool, Field(strict=True)] = False

    def plan(self, score_edges: tuple[float, ...] | None) -> Plan:
        """Build the plan.

        Raises:
            InvalidInputError: names the field.
        """
        edges = {} if score_edges is None else {"score_edges": score_edges}
        try:
            return Plan(
                Mode(self.mode),
                self._stages(),
                Limits(**self.limits.model_dump()),
                self.auto_promote,
                **edges,
            )
        except PlanError as error:
            raise InvalidInputError.field(error.pointer, error.message) from None

    def stable(self) -> int | None:
        """Give the stable version that `weights` names, None without weights."""
        others = [version for version in self.weights or () if version != self.candidate]
        return int(others[0]) if others else None

    def _stages(self) -> tuple[Stage, ...]:
        if self.weights is not None:
            return (Stage(self._weight_bp(self.weights)),)
        if self.mode == "ab":
            raise InvalidInputError.field("/weights", "is required in mode ab")
        if self.stages is None:
            shares = _CANARY if self.mode == "canary" else (1.0,)
            return tuple(Stage(round(share * BUCKETS)) for share in shares)
        return tuple(
            Stage(round(item.weight * BUCKETS), item.min_requests, item.min_seconds)
            for item in self.stages
        )

    def _weight_bp(self, weights: dict[str, float]) -> int:
        if self.mode != "ab":
            raise InvalidInputError.field("/weights", "belongs to mode ab; use /stages")
        if self.stages is not None:
            raise InvalidInputError.field("/stages", "mode ab has /weights")
        if self.candidate not in weights or len(weights) != 2:
            raise InvalidInputError.field(
                "/weights", "must name the candidate and the version that serves"
            )
        if abs(sum(weights.values()) - 100) > 1e-9:
            raise InvalidInputError.field("/weights", "must sum to 100")
        return round(weights[self.candidate] * BUCKETS / 100)


def score_edges(reference: dict[str, Any]) -> tuple[float, ...] | None:
    """Give the inner deciles of a manifest's scores as band edges, None when it has none."""
    deciles = reference.get("score", {}).get("deciles", [])
    edges = tuple(sorted({float(value) for value in deciles[1:-1]}))
    return edges or None
