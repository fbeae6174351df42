"""Trials of validator versions that run, with the sums of all processes."""

from libs.common.migrations import run_sql

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    run_sql(
        """
        CREATE TABLE trials (
            name text PRIMARY KEY,
            id text NOT NULL UNIQUE,
            plan jsonb NOT NULL,
            candidate text NOT NULL,
            stage integer NOT NULL DEFAULT 0,
            counts jsonb NOT NULL DEFAULT '{}',
            began_at timestamptz NOT NULL DEFAULT now()
        );
        """
    )
