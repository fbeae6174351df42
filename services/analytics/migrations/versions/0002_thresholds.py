"""Thresholds per tenant: one row per version, never changed."""

from libs.common.migrations import run_sql

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    run_sql(
        """
        CREATE TABLE thresholds (
            tenant text NOT NULL,
            version integer NOT NULL,
            limits jsonb NOT NULL,
            changed_at timestamptz NOT NULL DEFAULT now(),
            changed_by text NOT NULL,
            PRIMARY KEY (tenant, version)
        );
        """
    )
