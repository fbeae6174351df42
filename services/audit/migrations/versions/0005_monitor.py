"""How far the security rules have read, and with which event each alert was raised."""

from libs.common.migrations import run_sql

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    run_sql(
        """
CREATE TABLE monitor_state (
    id smallint PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    next_index bigint NOT NULL
)
"""
    )
