"""What operators asked for, per model and per rollout, with generations to compare and set."""

from libs.common.migrations import run_sql

revision = "0001"
down_revision = None


def upgrade() -> None:
    run_sql(
        """
        CREATE TABLE models (
            name text PRIMARY KEY CHECK (name ~ '^[A-Za-z0-9._-]{1,64}$'),
            generation bigint NOT NULL CHECK (generation > 0),
            stable integer CHECK (stable > 0),
            previous integer CHECK (previous > 0),
            aliases jsonb NOT NULL DEFAULT '{}',
            standby integer[] NOT NULL DEFAULT '{}',
            updated_at timestamptz NOT NULL DEFAULT now()
        );
        CREATE TABLE rollouts (
            id text PRIMARY KEY,
            model text NOT NULL,
            stable integer NOT NULL CHECK (stable > 0),
            candidate integer NOT NULL CHECK (candidate > 0 AND candidate <> stable),
            plan jsonb NOT NULL,
            state text NOT NULL CHECK (state IN ('running', 'paused', 'completed', 'rolled_back')),
            stage integer NOT NULL DEFAULT 0 CHECK (stage >= 0),
            stage_since timestamptz NOT NULL DEFAULT now(),
            generation bigint NOT NULL DEFAULT 1 CHECK (generation > 0),
            counts jsonb NOT NULL DEFAULT '{}',
            signal text NOT NULL DEFAULT '',
            reason text NOT NULL DEFAULT '',
            evidence jsonb NOT NULL DEFAULT '{}',
            created_by text NOT NULL DEFAULT '',
            created_at timestamptz NOT NULL DEFAULT now(),
            ended_at timestamptz
        );
        CREATE UNIQUE INDEX rollouts_one_per_model ON rollouts (model)
            WHERE state IN ('running', 'paused');
        CREATE INDEX rollouts_by_model ON rollouts (model, created_at DESC);
        """
    )
