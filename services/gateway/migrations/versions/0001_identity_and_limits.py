"""Tenants, API keys, and the per-address counters."""

from libs.common.migrations import run_sql

revision = "0001"
down_revision = None


def upgrade() -> None:
    run_sql("""
CREATE TABLE tenants (
    tenant      text PRIMARY KEY CHECK (tenant ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
    name        text NOT NULL,
    guard       jsonb NOT NULL DEFAULT '{"mode": "off"}',
    limits      jsonb NOT NULL DEFAULT '{}',
    generation  bigint NOT NULL DEFAULT 1,
    created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE api_keys (
    key_id          text PRIMARY KEY,
    tenant          text NOT NULL REFERENCES tenants,
    principal       text NOT NULL,
    name            text NOT NULL,
    pepper_id       text NOT NULL,
    mac             bytea NOT NULL,
    scopes          text[] NOT NULL,
    requests_max    integer,
    window_s        integer,
    burst           integer,
    concurrency_max integer,
    exempt_ip       boolean NOT NULL DEFAULT false,
    exempt_routes   boolean NOT NULL DEFAULT false,
    created_by      text NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    expires_at      timestamptz,
    revoked_at      timestamptz
);
CREATE INDEX api_keys_by_tenant ON api_keys (tenant, created_at DESC, key_id);
CREATE INDEX api_keys_revoked ON api_keys (revoked_at) WHERE revoked_at IS NOT NULL;

-- One row per counted address and policy. No index but the key, and free space on each page, so
-- that updates stay heap-only. Losing it in a crash costs one window of counting: hence UNLOGGED.
CREATE UNLOGGED TABLE ip_hits (
    bucket text PRIMARY KEY,
    hits   bigint[] NOT NULL
) WITH (fillfactor = 50);

-- An exact sliding log. Times are microseconds. The clock is read after the row is locked, so that
-- hits are in order; refusals are not recorded, so that a flood cannot keep itself refused.
CREATE FUNCTION take_ip_hit(p_bucket text, p_quota integer, p_window_us bigint)
RETURNS TABLE (allowed boolean, remaining integer, retry_us bigint, reset_us bigint)
LANGUAGE plpgsql AS $$
DECLARE
    held  bigint[];
    kept  bigint[];
    clock bigint;
    count integer;
BEGIN
    SELECT h.hits INTO held FROM ip_hits h WHERE h.bucket = p_bucket FOR UPDATE;
    IF NOT FOUND THEN
        INSERT INTO ip_hits VALUES (p_bucket, '{}') ON CONFLICT DO NOTHING;
        SELECT h.hits INTO held FROM ip_hits h WHERE h.bucket = p_bucket FOR UPDATE;
    END IF;
    clock := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
    clock := greatest(clock, coalesce(held[cardinality(held)], 0));
    SELECT coalesce(array_agg(hit ORDER BY hit), '{}') INTO kept
        FROM unnest(held) AS hit WHERE hit > clock - p_window_us;
    count := cardinality(kept);
    IF count < p_quota THEN
        kept := kept || clock;
        UPDATE ip_hits h SET hits = kept WHERE h.bucket = p_bucket;
        RETURN QUERY SELECT true, p_quota - count - 1, 0::bigint, kept[1] + p_window_us - clock;
    ELSE
        -- The hit whose expiry brings the count below the quota.
        RETURN QUERY SELECT false, 0, kept[count - p_quota + 1] + p_window_us - clock,
                            kept[1] + p_window_us - clock;
    END IF;
END $$;
""")
