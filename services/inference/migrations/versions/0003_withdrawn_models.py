"""A model may be asked out of service as a whole, on every replica and over restarts."""

from libs.common.migrations import run_sql

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    run_sql("ALTER TABLE models ADD COLUMN withdrawn boolean NOT NULL DEFAULT false")
