"""Policies, their published versions, and each tenant's pointer and epoch."""

from libs.common.migrations import run_sql

revision = "0001"
down_revision = None


def upgrade() -> None:
    run_sql(
        """
        CREATE TABLE tenants (
            tenant text PRIMARY KEY,
            epoch bigint NOT NULL DEFAULT 0,
            active_policy text,
            active_version integer
        );
        CREATE TABLE policies (
            tenant text NOT NULL,
            id text NOT NULL CHECK (id ~ '^[a-z0-9]{1,64}$'),
            draft jsonb NOT NULL,
            revision integer NOT NULL DEFAULT 1,
            latest integer NOT NULL DEFAULT 0,
            updated_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (tenant, id)
        );
        CREATE TABLE policy_versions (
            tenant text NOT NULL,
            id text NOT NULL,
            version integer NOT NULL CHECK (version > 0),
            body jsonb NOT NULL,
            published_at timestamptz NOT NULL DEFAULT now(),
            published_by text NOT NULL,
            PRIMARY KEY (tenant, id, version),
            FOREIGN KEY (tenant, id) REFERENCES policies (tenant, id)
        );
        """
    )
