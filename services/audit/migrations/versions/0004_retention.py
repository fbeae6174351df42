"""Retention: policies, legal holds, what was removed; bloom filters for rare search values."""

from libs.common.migrations import run_sql

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    run_sql(
        """
-- tenant '' is the policy of everybody, in the place of the default; a tenant's own may be shorter
-- or longer.
CREATE TABLE retention_policy (
    tenant text NOT NULL,
    event_class text NOT NULL CHECK (event_class IN ('required', 'standard', 'sampled')),
    keep_days integer NOT NULL CHECK (keep_days > 0),
    version integer NOT NULL,
    changed_by text NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, event_class)
);
CREATE TABLE legal_hold (
    id text PRIMARY KEY,
    tenant text NOT NULL,
    event_class text,
    since timestamptz,
    until timestamptz,
    reason text NOT NULL,
    placed_by text NOT NULL,
    placed_at timestamptz NOT NULL DEFAULT now(),
    released_by text,
    released_at timestamptz
);
CREATE TABLE pruned_partition (
    name text PRIMARY KEY,
    parent text NOT NULL,
    from_index bigint NOT NULL,
    to_index bigint NOT NULL,
    rows bigint NOT NULL,
    announced_at timestamptz NOT NULL DEFAULT now(),
    detached_at timestamptz,
    dropped_at timestamptz
);
-- A value that nobody or almost nobody has is found absent without walking over the tenant's rows.
CREATE INDEX search_rare ON search_row USING brin (
    decision text_bloom_ops, model text_bloom_ops, actor text_bloom_ops, source text_bloom_ops
) WITH (pages_per_range = 32);
"""
    )
