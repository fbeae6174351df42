"""Rare and absent values by index.

At 1M rows the planner did not choose the bloom filter, and such a search took a second.
"""

from libs.common.migrations import run_sql

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    run_sql(
        """
DROP INDEX search_rare;
CREATE INDEX search_decision ON search_row (tenant, decision, index);
CREATE INDEX search_model ON search_row (tenant, model, index);
CREATE INDEX search_actor ON search_row (tenant, actor, index);
"""
    )
