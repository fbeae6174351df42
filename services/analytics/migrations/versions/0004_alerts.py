"""Alerts: present states, what was heard of them, webhooks and their deliveries."""

from libs.common.migrations import run_sql

revision = "0004"
down_revision = "0003"

_WATCHED = """
    tenant text NOT NULL,
    model text NOT NULL,
    release text NOT NULL,
    metric text NOT NULL,
    kind text NOT NULL,
"""
_FIGURES = """
    severity text NOT NULL,
    value double precision NOT NULL,
    limit_value double precision NOT NULL,
    n bigint NOT NULL,
"""


def upgrade() -> None:
    run_sql(
        f"""
        CREATE TABLE alerts (
            {_WATCHED}
            state text NOT NULL,
            since timestamptz NOT NULL,
            {_FIGURES}
            baseline_end timestamptz NOT NULL,
            unknown_since timestamptz,
            PRIMARY KEY (tenant, model, release, metric, kind)
        );
        CREATE TABLE alert_transitions (
            id uuid PRIMARY KEY,
            {_WATCHED}
            at timestamptz NOT NULL,
            before text NOT NULL,
            state text NOT NULL,
            reason text NOT NULL,
            {_FIGURES}
            window_minutes integer NOT NULL
        );
        CREATE INDEX ON alert_transitions (tenant, id);
        CREATE TABLE alert_webhooks (
            tenant text PRIMARY KEY,
            url text,
            version integer NOT NULL,
            changed_at timestamptz NOT NULL DEFAULT now(),
            changed_by text NOT NULL
        );
        CREATE TABLE alert_deliveries (
            id uuid PRIMARY KEY,
            tenant text NOT NULL,
            body text NOT NULL,
            state text NOT NULL DEFAULT 'waiting',
            attempts integer NOT NULL DEFAULT 0,
            next_at timestamptz NOT NULL DEFAULT now(),
            last_outcome text,
            created_at timestamptz NOT NULL DEFAULT now()
        );
        CREATE INDEX ON alert_deliveries (next_at) WHERE state = 'waiting';
        CREATE INDEX ON alert_deliveries (tenant, id);
        CREATE TABLE alert_state (
            name text PRIMARY KEY,
            evaluated_until timestamptz NOT NULL
        );
        """
    )
