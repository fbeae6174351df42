"""Ranks candidate items for a user: one feature read and one call of the relevance model.

The service keeps no catalogue of a shop: the caller sends the candidates (up to 500), for example
what a search or a category page would show. Filters hold before scoring, "seen" after the read.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from libs.common.context import current
from libs.common.errors import InvalidInputError
from libs.common.events.envelope import Event, event_for_request
from libs.common.features.contract import FeatureRequest, FeatureRows
from libs.common.rollouts import Arm
from services.inference.control.live import Live
from services.inference.domain.model import TabularModel
from services.inference.domain.scoring import confidence_of
from services.inference.schemas import Candidate, RecommendRequest
from services.inference.scoring.base import (
    ScorerBase,
    event_time_ms,
    feature_facts,
    minor_units,
    sample_of,
)
from services.inference.scoring.personalization import RELEVANCE
from services.inference.scoring.trial import Facts

ENDPOINT = "/recommend"


class Recommender(ScorerBase):
    """Answers `/recommend`."""

    async def recommend(self, request: RecommendRequest) -> dict[str, Any]:
        """Rank the candidates; one event for the call is durable when this returns.

        Raises:
            InvalidInputError: it is for nobody, or leaves out what only a user has seen.
            ModelNotLoadedError: no version of the relevance model is ready.
            InferenceFailedError: the model failed; a failed event was recorded.
            UnavailableError: the event cannot be made durable.
        """
        started = time.perf_counter()
        if request.user_id is None and request.session_id is None:
            raise InvalidInputError.field("/user_id", "or session_id: one of them is needed")
        if request.user_id is None and request.exclude_seen:
            raise InvalidInputError.field("/exclude_seen", "needs user_id")
        model = self._plane.resolve(RELEVANCE)
        candidates = admissible(request)
        if not candidates:
            return self._body(model, request, [], None, started)
        rows = await self.read(
            model.service, [_feature_request(request, item) for item in candidates]
        )
        stable = model

        def failures(
            failed: TabularModel, arm: Arm, _: Sequence[int], reason: str, live: Live | None
        ) -> list[Event]:
            return [_event(failed, request, rows, "failed", reason, arm=arm, live=live)]

        # One user is one subject, so one version ranks the whole list.
        found = await self.score_rows(stable, [request.subject] * len(candidates), rows, failures)
        first = found.scored[0]
        model = first.model
        ranked = rank(
            candidates,
            [found.scored[at].score for at in range(len(candidates))],
            seen=_seen(model, rows) if request.exclude_seen else None,
            most=request.k,
            per_category=request.max_per_category,
        )
        event = _event(
            model,
            request,
            rows,
            "degraded" if rows.degraded_reasons else "ok",
            rows.degraded_reasons[0] if rows.degraded_reasons else None,
            score=ranked[0]["score"] if ranked else None,
            arm=first.arm,
            live=found.live,
        )
        await self.record([event])
        if found.live is not None:
            facts = Facts(
                sample_of(model, first.score, first.model_s),
                None,
                self.again(RELEVANCE, rows, 0),
                ENDPOINT,
                event.id,
                request.subject,
            )
            self.trial.after(found.live, first.arm, found.keys[0][1], facts)
        return self._body(model, request, ranked, (rows, event), started)

    def _body(
        self,
        model: TabularModel,
        request: RecommendRequest,
        ranked: list[dict[str, Any]],
        read: tuple[FeatureRows, Event] | None,
        started: float,
    ) -> dict[str, Any]:
        reasons = list(read[0].degraded_reasons) if read else []
        return {
            "items": ranked,
            "candidates": len(request.offered),
            "model_version": model.model_version,
            "request_id": current().request_id,
            "prediction_id": read[1].id if read else None,
            "degraded": bool(reasons),
            "degraded_reasons": reasons,
            "latency_ms": round((time.perf_counter() - started) * 1e3, 3),
        }


def admissible(request: RecommendRequest) -> list[Candidate]:
    """Keep the candidates that pass the business filters; the first of equal ids counts."""
    excluded = set(request.exclude_items)
    found: dict[str, Candidate] = {}
    for item in request.offered:
        fits_category = not request.categories or item.item_category in request.categories
        fits_category &= item.item_category not in request.exclude_categories
        fits_price = _fits_price(request, item.item_price)
        if item.item_id not in excluded and fits_category and fits_price:
            found.setdefault(item.item_id, item)
    return list(found.values())


def _fits_price(request: RecommendRequest, price: float | None) -> bool:
    """Whether a price lies within the bounds; an unknown one only fits where there are none."""
    if request.price_min is None and request.price_max is None:
        return True
    if price is None or (request.price_min is not None and price < request.price_min):
        return False
    return request.price_max is None or price <= request.price_max


def rank(
    candidates: Sequence[Candidate],
    scores: Sequence[float],
    *,
    seen: Sequence[bool] | None,
    most: int,
    per_category: int | None = None,
) -> list[dict[str, Any]]:
    """Order by score, highest first, equal scores by item id; at most `most`.

    Args:
        candidates: items, in the order of `scores`.
        scores: relevance of each.
        seen: items to leave out, in the same order; None leaves none out.
        most: length of the list.
        per_category: at most so many of one category; items without one count alone.
    """
    order = sorted(
        (at for at in range(len(candidates)) if seen is None or not seen[at]),
        key=lambda at: (-float(scores[at]), candidates[at].item_id),
    )
    if per_category is not None:
        order = _spread(order, candidates, per_category)
    return [
        {
            "item_id": candidates[at].item_id,
            "score": round(float(scores[at]), 6),
            "rank": place,
        }
        for place, at in enumerate(order[:most], 1)
    ]


def _spread(order: Sequence[int], candidates: Sequence[Candidate], most: int) -> list[int]:
    """Drop items whose category has had its share; the order of the others stays."""
    taken: Counter[str] = Counter()
    kept = []
    for at in order:
        category = candidates[at].item_category
        if category is not None:
            taken[category] += 1
        if category is None or taken[category] <= most:
            kept.append(at)
    return kept


def _seen(model: TabularModel, rows: FeatureRows) -> list[bool]:
    """Say for each row whether the user met the item in the last 30 days or bought it."""
    names = list(model.service.names)
    met = rows.matrix[:, names.index("user_same_item_30d")]
    bought = rows.matrix[:, names.index("user_item_purchases_all")]
    return [bool(value) for value in (np.nan_to_num(met) > 0) | (np.nan_to_num(bought) > 0)]


def _feature_request(request: RecommendRequest, item: Candidate) -> FeatureRequest:
    entities = {"item": item.item_id}
    if request.user_id is not None:
        entities["user"] = request.user_id
    if request.session_id is not None:
        entities["session"] = request.session_id
    values: dict[str, object] = {}
    if item.item_category is not None:
        values["item_category"] = item.item_category
    if item.item_price is not None:
        values["price_minor"] = minor_units(item.item_price)
    return FeatureRequest(entities, values, event_time_ms(None))


def _event(
    model: TabularModel,
    request: RecommendRequest,
    rows: FeatureRows,
    status: str,
    reason: str | None,
    *,
    score: float | None = None,
    arm: Arm = Arm.STABLE,
    live: Live | None = None,
) -> Event:
    """Build the call's event: the best score, and which features it rests on."""
    used = int(np.count_nonzero(~np.isnan(rows.matrix[0])))
    data: dict[str, Any] = {
        "route": ENDPOINT,
        "model": model.name,
        "release": model.manifest.release,
        "version": model.version,
        "arm": arm.value,
        "status": status,
        "features": feature_facts(rows, 0, used),
        "input_digest": hashlib.sha256(rows.matrix.tobytes()).hexdigest()[:32],
    }
    if live is not None:
        data["rollout"] = live.id
    if reason is not None:
        data["reason"] = reason
    if score is not None:
        data.update(score=score, confidence=round(confidence_of(score), 6))
    return event_for_request(
        "prediction.made", "inference", "standard", data, data_subject=request.subject
    )
