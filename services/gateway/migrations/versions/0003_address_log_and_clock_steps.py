"""The address log survives a clock that steps back: hits in the future count from now on."""

from libs.common.migrations import run_sql

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    run_sql("""
-- As before, but a hit that lies in the future (the clock was set back) is moved to now and stored
-- so: it counts for one more window, never until the clock has caught up.
CREATE OR REPLACE FUNCTION take_ip_hit(p_bucket text, p_quota integer, p_window_us bigint)
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
    SELECT coalesce(array_agg(least(hit, clock) ORDER BY hit), '{}') INTO kept
        FROM unnest(held) AS hit WHERE hit > clock - p_window_us;
    count := cardinality(kept);
    IF count < p_quota THEN
        kept := kept || clock;
        UPDATE ip_hits h SET hits = kept WHERE h.bucket = p_bucket;
        RETURN QUERY SELECT true, p_quota - count - 1, 0::bigint, kept[1] + p_window_us - clock;
    ELSE
        IF held[cardinality(held)] > clock THEN
            UPDATE ip_hits h SET hits = kept WHERE h.bucket = p_bucket;
        END IF;
        -- The hit whose expiry brings the count below the quota.
        RETURN QUERY SELECT false, 0, kept[count - p_quota + 1] + p_window_us - clock,
                            kept[1] + p_window_us - clock;
    END IF;
END $$;
""")
