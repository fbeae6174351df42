"""Computed views that this release brings for every tenant; readers know them without a definition.

`merchant_risk` says what share of a merchant's payments turned out to be fraud, by the payment's
own time and only as far as labels can be known: windows end seven days before the moment.
"""

from libs.common.features.computed import Aggregate, ComputedView
from libs.common.features.readings import Reading, Statistics, finish, read_ring
from libs.common.features.tile_readings import read_tiles
from libs.common.features.windows import DAY_MS

LABEL_DELAY_MS = 7 * DAY_MS

MERCHANT_RISK = ComputedView(
    name="merchant_risk",
    version=1,
    schema_id=100,
    join_keys=("merchant_id",),
    event_types=("card_transaction",),
    engine="tiles",
    aggregates=(
        *(
            Aggregate(f"labelled_count_{days}d", "count", None, days * DAY_MS, LABEL_DELAY_MS)
            for days in (1, 7, 30)
        ),
        *(
            Aggregate(f"fraud_rate_{days}d", "rate", None, days * DAY_MS, LABEL_DELAY_MS)
            for days in (1, 7, 30)
        ),
    ),
    ttl_ms=30 * DAY_MS,
    label="fraud",
)

SHIPPED: dict[str, ComputedView] = {view.name: view for view in (MERCHANT_RISK,)}


def read(view: ComputedView, blob: bytes | None, now_ms: int, skip: int | None = None) -> Reading:
    """Evaluate the bytes of one entity, whichever engine wrote them; None: it has no events.

    Raises:
        LayoutError: these are no bytes of this view.
    """
    if blob is None:
        values = [finish(item.kind, Statistics(), now_ms) for item in view.aggregates]
        return Reading(0, -1, values)
    return (read_tiles if view.is_tiled else read_ring)(view, blob, now_ms, skip)
