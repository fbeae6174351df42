"""When a checkpoint got its cosignature; NULL while it has none."""

from libs.common.migrations import run_sql

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    run_sql("ALTER TABLE checkpoint ADD COLUMN witnessed_at timestamptz")
