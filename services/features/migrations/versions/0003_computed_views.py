"""Computed views by definition, and what erasure and materialization look events up by."""

from libs.common.migrations import run_sql

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    run_sql(
        """
        -- Which event a log row comes from; empty for a label's row.
        ALTER TABLE log ADD COLUMN event_id text NOT NULL DEFAULT '';
        -- How many definitions its tenant had when an event came: a computed view that is defined
        -- later is filled from exactly the events that came before it.
        ALTER TABLE events ADD COLUMN definitions integer NOT NULL DEFAULT 0;
        ALTER TABLE tenant_definitions
            ADD COLUMN state text NOT NULL DEFAULT 'ready'
                CHECK (state IN ('building', 'ready')),
            ADD COLUMN definitions integer NOT NULL DEFAULT 0;
        CREATE INDEX events_pushed ON events (tenant, (body->>'view')) WHERE type = 'pushed';
        CREATE INDEX samples_of_card ON samples (tenant, (body->'entities'->>'card_id'));
        CREATE INDEX samples_of_merchant ON samples (tenant, (body->'entities'->>'merchant_id'));
        CREATE INDEX samples_of_user ON samples (tenant, (body->'entities'->>'user_id'));
        CREATE INDEX samples_of_item ON samples (tenant, (body->'entities'->>'item_id'));
        CREATE INDEX samples_of_session ON samples (tenant, (body->'entities'->>'session_id'));
        """
    )
