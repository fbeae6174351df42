"""POST /recommend."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from libs.common.plain import PlainRoute, body_of, parse, respond
from services.inference.metrics import InferenceMetrics
from services.inference.routes.measured import Measured
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
        return respond(await recommender.recommend(asked))
