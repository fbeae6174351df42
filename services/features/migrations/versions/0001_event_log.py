"""Raw events, the gap-free log per partition, and stored definitions."""

from libs.common.migrations import run_sql

revision = "0001"
down_revision = None


def upgrade() -> None:
    run_sql(
        """
        CREATE TABLE events (
            tenant text NOT NULL,
            event_id text NOT NULL,
            type text NOT NULL,
            event_ms bigint NOT NULL,
            arrival_ms bigint NOT NULL,
            is_late boolean NOT NULL,
            body jsonb NOT NULL,
            PRIMARY KEY (tenant, event_id)
        );
        -- The next offset of a partition is given under its row's lock, never by a sequence:
        -- a rolled back transaction must leave no gap.
        CREATE TABLE partitions (
            partition smallint PRIMARY KEY,
            next_offset bigint NOT NULL DEFAULT 1,
            applied_offset bigint NOT NULL DEFAULT 0,
            epoch bigint NOT NULL DEFAULT 0
        );
        CREATE TABLE log (
            partition smallint NOT NULL,
            "offset" bigint NOT NULL,
            tenant text NOT NULL,
            view text NOT NULL,
            entity text NOT NULL,
            record bytea NOT NULL,
            arrival_ms bigint NOT NULL,
            PRIMARY KEY (partition, "offset")
        );
        CREATE TABLE definitions (
            kind text NOT NULL,
            name text NOT NULL,
            fingerprint text NOT NULL,
            document jsonb NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (kind, name, fingerprint)
        );
        """
    )
