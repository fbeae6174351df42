"""The log: state, leaves, payloads, tiles, dedupe, checkpoints, subject keys, search rows."""

from libs.common.migrations import run_sql

revision = "0001"
down_revision = None


def upgrade() -> None:
    run_sql(
        """
CREATE TABLE log_state (
    id smallint PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    size bigint NOT NULL,
    root bytea NOT NULL,
    epoch bigint NOT NULL,
    writer text NOT NULL,
    min_index bigint NOT NULL DEFAULT 0,
    ingested_at timestamptz NOT NULL
);
-- Monthly ranges of ingested_at, made ahead by the service; there is no default partition, since
-- DETACH ... CONCURRENTLY does not work beside one.
CREATE TABLE leaf (
    index bigint NOT NULL,
    ingested_at timestamptz NOT NULL,
    leaf bytea NOT NULL
) PARTITION BY RANGE (ingested_at);
CREATE INDEX leaf_index ON leaf (index);
CREATE TABLE payload (
    index bigint NOT NULL,
    ingested_at timestamptz NOT NULL,
    retention text NOT NULL,
    salt bytea NOT NULL,
    body bytea NOT NULL
) PARTITION BY LIST (retention);
CREATE INDEX payload_index ON payload (index);
CREATE TABLE payload_required PARTITION OF payload FOR VALUES IN ('required')
    PARTITION BY RANGE (ingested_at);
CREATE TABLE payload_standard PARTITION OF payload FOR VALUES IN ('standard')
    PARTITION BY RANGE (ingested_at);
CREATE TABLE payload_sampled PARTITION OF payload FOR VALUES IN ('sampled')
    PARTITION BY RANGE (ingested_at);
-- Kept for ever, about 32.13 bytes per event; hashes do not compress.
CREATE TABLE tile (
    level smallint NOT NULL,
    n bigint NOT NULL,
    hashes bytea NOT NULL,
    PRIMARY KEY (level, n)
);
ALTER TABLE tile ALTER COLUMN hashes SET STORAGE EXTERNAL;
-- Apart from the partitioned tables, whose unique keys would have to hold the partition key.
CREATE TABLE event_dedup (
    id text NOT NULL,
    source text NOT NULL,
    index bigint NOT NULL,
    PRIMARY KEY (id, source)
);
CREATE TABLE checkpoint (
    size bigint PRIMARY KEY,
    root bytea NOT NULL,
    note text NOT NULL,
    published_at timestamptz NOT NULL DEFAULT now()
);
-- wrapped_dek is NULL after erasure: the row stays as a tombstone for late events.
CREATE TABLE subject_key (
    subject_hmac bytea PRIMARY KEY,
    tenant text NOT NULL,
    pseudonym text NOT NULL UNIQUE,
    wrapped_dek bytea,
    kek_id text NOT NULL,
    erased_at timestamptz
);
CREATE TABLE search_row (
    index bigint NOT NULL,
    ingested_at timestamptz NOT NULL,
    tenant text NOT NULL,
    type text NOT NULL,
    source text NOT NULL,
    decision text NOT NULL,
    model text NOT NULL,
    actor text NOT NULL,
    subject text,
    request_id text NOT NULL,
    trace_id text NOT NULL
) PARTITION BY RANGE (ingested_at);
CREATE INDEX search_tenant ON search_row (tenant, index);
CREATE INDEX search_type ON search_row (tenant, type, index);
CREATE INDEX search_subject ON search_row (tenant, subject, index) WHERE subject IS NOT NULL;
CREATE INDEX search_request ON search_row (request_id, index);
CREATE INDEX search_time ON search_row USING brin (ingested_at);
"""
    )
