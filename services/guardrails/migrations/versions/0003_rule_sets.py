"""Uploaded rule sets, one row per version; a name belongs to one tenant."""

from libs.common.migrations import run_sql

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    run_sql(
        """
        CREATE TABLE rule_sets (
            tenant text NOT NULL,
            name text NOT NULL,
            version text NOT NULL,
            digest text NOT NULL,
            body jsonb NOT NULL,
            uploaded_at timestamptz NOT NULL DEFAULT now(),
            uploaded_by text NOT NULL,
            PRIMARY KEY (name, version)
        );
        """
    )
