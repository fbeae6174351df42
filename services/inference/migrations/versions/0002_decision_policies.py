"""Decision policies: what each tenant does about a probability, every version of it."""

from libs.common.migrations import run_sql

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    run_sql(
        """
        CREATE TABLE decision_policies (
            tenant text NOT NULL,
            model text NOT NULL CHECK (model ~ '^[A-Za-z0-9._-]{1,64}$'),
            version integer NOT NULL CHECK (version > 0),
            document jsonb NOT NULL,
            reason text NOT NULL DEFAULT '',
            changed_by text NOT NULL,
            changed_at timestamptz NOT NULL,
            PRIMARY KEY (tenant, model, version)
        );
        """
    )
