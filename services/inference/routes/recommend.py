"""POST /recommend."""

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from services.inference.metrics import InferenceMetrics
from services.inference.routes.plain import Measured, PlainRoute, body_of, parse
from services.inference.schemas import RecommendAnswer, RecommendRequest
from services.inference.scoring.personalization import RELEVANCE
from services.inference.scoring.recommend import ENDPOINT, Recommender

router = APIRouter(route_class=PlainRoute, tags=["scoring"])


@router.post(
    ENDPOINT,
    summary="Top-k items for a user",
    openapi_extra=body_of(RecommendRequest),
    responses={200: {"model": RecommendAnswer}},
)
async def recommend(request: Request) -> Response:
    """Rank candidate items for a user."""
    recommender: Recommender = request.state.recommender
    metrics: InferenceMetrics = request.state.scoring.metrics
    with Measured(metrics, ENDPOINT, RELEVANCE):
        asked = await parse(request, RecommendRequest)
        answer = await recommender.recommend(asked)
        return Response(orjson.dumps(answer), media_type="application/json")
