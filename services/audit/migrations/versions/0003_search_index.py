"""Rows of a range of indices, for the check of the whole log; costs next to nothing on append."""

from libs.common.migrations import run_sql

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    run_sql("CREATE INDEX search_range ON search_row USING brin (index)")
