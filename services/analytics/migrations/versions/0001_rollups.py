"""Roll-ups of the audit log: series, minutes (by month), hours, histograms, categories, offset."""

from libs.common.migrations import run_sql

revision = "0001"
down_revision = None

_SUMS = """
    series_id integer NOT NULL,
    period timestamptz NOT NULL,
    n bigint NOT NULL,
    errors bigint NOT NULL,
    degraded bigint NOT NULL,
    cached bigint NOT NULL,
    cacheable bigint NOT NULL,
    confidence_n bigint NOT NULL,
    confidence_sum double precision NOT NULL,
    latency_n bigint NOT NULL,
    latency_sum double precision NOT NULL,
    pair_n bigint NOT NULL,
    pair_x double precision NOT NULL,
    pair_y double precision NOT NULL,
    pair_xx double precision NOT NULL,
    pair_yy double precision NOT NULL,
    pair_xy double precision NOT NULL,
    features_used bigint NOT NULL,
    features_missing bigint NOT NULL,
    features_stale bigint NOT NULL,
    freshness_n bigint NOT NULL,
    freshness_sum double precision NOT NULL,
    revision bigint NOT NULL,
    latency_min double precision,
    latency_max double precision,
    PRIMARY KEY (series_id, period)
"""
_BUCKETS = """
    series_id integer NOT NULL,
    period timestamptz NOT NULL,
    metric text NOT NULL,
    bucket integer NOT NULL,
    n bigint NOT NULL,
    PRIMARY KEY (series_id, period, metric, bucket)
"""
_CATEGORIES = """
    series_id integer NOT NULL,
    period timestamptz NOT NULL,
    metric text NOT NULL,
    value text NOT NULL,
    n bigint NOT NULL,
    PRIMARY KEY (series_id, period, metric, value)
"""


def upgrade() -> None:
    run_sql(
        f"""
        CREATE TABLE series (
            id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            tenant text NOT NULL,
            kind text NOT NULL,
            model text NOT NULL,
            version text NOT NULL,
            release text NOT NULL,
            arm text NOT NULL,
            route text NOT NULL,
            UNIQUE (tenant, kind, model, version, release, arm, route)
        );
        CREATE TABLE rollup_minutes ({_SUMS}) PARTITION BY RANGE (period);
        CREATE TABLE rollup_hours ({_SUMS});
        CREATE TABLE histogram_minutes ({_BUCKETS}) PARTITION BY RANGE (period);
        CREATE TABLE histogram_hours ({_BUCKETS});
        CREATE TABLE category_minutes ({_CATEGORIES}) PARTITION BY RANGE (period);
        CREATE TABLE category_hours ({_CATEGORIES});
        CREATE TABLE tenant_totals (
            tenant text PRIMARY KEY,
            predictions bigint NOT NULL
        );
        CREATE TABLE tail_state (
            name text PRIMARY KEY,
            next_index bigint NOT NULL,
            log_size bigint NOT NULL DEFAULT 0,
            skipped bigint NOT NULL DEFAULT 0,
            event_time timestamptz,
            caught_up_at timestamptz
        );
        """
    )
