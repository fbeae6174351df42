"""Definitions of tenants, materializations, labels, parity samples."""

from libs.common.migrations import run_sql

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    run_sql(
        """
        CREATE TABLE tenant_definitions (
            tenant text NOT NULL,
            kind text NOT NULL,
            name text NOT NULL,
            version integer NOT NULL,
            schema_id integer,
            fingerprint text NOT NULL,
            document jsonb NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (tenant, kind, name, version),
            UNIQUE (tenant, schema_id)
        );
        CREATE TABLE jobs (
            tenant text NOT NULL,
            job_id text NOT NULL,
            kind text NOT NULL,
            state text NOT NULL,
            done bigint NOT NULL DEFAULT 0,
            total bigint,
            details jsonb NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            updated_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (tenant, job_id)
        );
        -- Labels are kept as they come; the newest of a decision is the one that counts.
        CREATE TABLE labels (
            tenant text NOT NULL,
            kind text NOT NULL CHECK (kind IN ('transaction', 'prediction')),
            subject_id text NOT NULL,
            label text NOT NULL,
            occurred_ms bigint,
            available_ms bigint NOT NULL,
            PRIMARY KEY (tenant, kind, subject_id, available_ms)
        );
        CREATE TABLE samples (
            tenant text NOT NULL,
            sample_id text NOT NULL,
            service text NOT NULL,
            as_of_ms bigint NOT NULL,
            received_ms bigint NOT NULL,
            body jsonb NOT NULL,
            checked_at timestamptz,
            mismatches jsonb,
            PRIMARY KEY (tenant, sample_id)
        );
        CREATE INDEX samples_unchecked ON samples (received_ms) WHERE checked_at IS NULL;
        -- History of one entity, for point-in-time reads.
        CREATE INDEX log_by_entity ON log (view, entity, tenant);
        """
    )
