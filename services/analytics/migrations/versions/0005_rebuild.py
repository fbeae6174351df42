"""How a rebuild of the roll-ups stands."""

from libs.common.migrations import run_sql

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    run_sql(
        """
        CREATE TABLE rebuilds (
            name text PRIMARY KEY,
            state text NOT NULL,
            done bigint NOT NULL,
            total bigint NOT NULL,
            started_at timestamptz NOT NULL DEFAULT now(),
            finished_at timestamptz,
            reason text
        );
        """
    )
