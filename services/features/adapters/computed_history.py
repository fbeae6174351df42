"""Computed views as of any moment: their definitions, run as SQL over the log's events."""

from collections.abc import Sequence

from libs.common.features.computed import ComputedView
from libs.common.postgres import Postgres
from services.features.domain.history_sql import compile_view, parameters, values_of


class ComputedHistory:
    """Reads computed views of a tenant at given moments."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def read(
        self,
        tenant: str,
        view: ComputedView,
        entities: Sequence[str],
        as_of_ms: Sequence[int],
        *,
        until: Sequence[int | None] | None = None,
    ) -> list[list[float]]:
        """Give each row's values, one per aggregate in order, NaN where there is none.

        Args:
            tenant: from the credential.
            view: the version to evaluate.
            entities: n entities.
            as_of_ms: n moments; what arrived later is not seen.
            until: per row the last log offset that it may see, instead of the arrival.
        """
        taken = parameters(view, tenant, entities, as_of_ms, until)
        rows = await self._postgres.fetch(compile_view(view), *taken)
        return [values_of(view, row, as_of_ms[row[0]]) for row in rows]
