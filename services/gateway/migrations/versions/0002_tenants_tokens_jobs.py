"""Roles, users, token keys, refresh families, revocations, idempotent answers, erasure jobs."""

from libs.common.migrations import run_sql

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    run_sql("""
ALTER TABLE tenants ADD COLUMN erasure_contact text NOT NULL DEFAULT '';
ALTER TABLE tenants ADD COLUMN changed_at timestamptz NOT NULL DEFAULT now();
CREATE INDEX tenants_changed ON tenants (changed_at);

ALTER TABLE api_keys ADD COLUMN last_used_at timestamptz;
ALTER TABLE api_keys ADD COLUMN rotated_to text;
CREATE INDEX api_keys_by_principal ON api_keys (tenant, principal);

-- A role is a named set of scopes of one tenant.
CREATE TABLE roles (
    tenant      text NOT NULL REFERENCES tenants,
    role        text NOT NULL CHECK (role ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
    scopes      text[] NOT NULL,
    generation  bigint NOT NULL DEFAULT 1,
    PRIMARY KEY (tenant, role)
);

CREATE TABLE users (
    tenant        text NOT NULL REFERENCES tenants,
    username      text NOT NULL,
    password_hash text NOT NULL,
    roles         text[] NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    disabled_at   timestamptz,
    PRIMARY KEY (username)
);

-- Private halves are sealed under a key derived from the pepper, so that replicas share them and a
-- stolen table signs nothing.
CREATE TABLE token_keys (
    kid        text PRIMARY KEY,
    public     bytea NOT NULL,
    sealed     bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    retired_at timestamptz
);

CREATE TABLE token_families (
    family      uuid PRIMARY KEY,
    tenant      text NOT NULL,
    principal   text NOT NULL,
    client_id   text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    ends_at     timestamptz NOT NULL,
    revoked_at  timestamptz,
    reason      text
);
CREATE INDEX token_families_revoked ON token_families (revoked_at) WHERE revoked_at IS NOT NULL;

CREATE TABLE refresh_tokens (
    mac        bytea PRIMARY KEY,
    family     uuid NOT NULL REFERENCES token_families ON DELETE CASCADE,
    scopes     text[] NOT NULL,
    expires_at timestamptz NOT NULL,
    used_at    timestamptz,
    siblings   integer NOT NULL DEFAULT 0
);

CREATE TABLE revoked_tokens (
    jti        text PRIMARY KEY,
    revoked_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL
);
CREATE INDEX revoked_tokens_at ON revoked_tokens (revoked_at);

CREATE TABLE idempotent_answers (
    tenant     text NOT NULL,
    principal  text NOT NULL,
    route      text NOT NULL,
    key        text NOT NULL,
    body_sha   bytea NOT NULL,
    status     integer,
    media_type text,
    body       bytea,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, principal, route, key)
);
CREATE INDEX idempotent_answers_age ON idempotent_answers (created_at);

CREATE TABLE erasures (
    job_id       uuid PRIMARY KEY,
    tenant       text NOT NULL,
    requested_by text NOT NULL,
    data_subject jsonb,          -- emptied when the job is done
    digest       bytea NOT NULL, -- HMAC of the data subject: finds a repeated request
    steps        jsonb NOT NULL,
    state        text NOT NULL CHECK (state IN ('pending', 'running', 'done')),
    created_at   timestamptz NOT NULL DEFAULT now(),
    finished_at  timestamptz
);
CREATE INDEX erasures_open ON erasures (created_at) WHERE state <> 'done';
CREATE INDEX erasures_by_subject ON erasures (tenant, digest);
""")
