"""Which version of each plug-in serves."""

from libs.common.migrations import run_sql

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    run_sql(
        """
        CREATE TABLE plugins (
            name text PRIMARY KEY,
            version text NOT NULL,
            activated_at timestamptz NOT NULL DEFAULT now()
        );
        """
    )
