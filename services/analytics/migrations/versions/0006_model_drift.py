"""The newest drift of each model version against its training."""

from libs.common.migrations import run_sql

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    run_sql(
        """
        CREATE TABLE model_drift (
            tenant text NOT NULL,
            model text NOT NULL,
            version text NOT NULL,
            release text NOT NULL,
            at timestamptz NOT NULL,
            n bigint NOT NULL,
            m bigint NOT NULL,
            compared integer NOT NULL,
            told jsonb NOT NULL,
            PRIMARY KEY (tenant, model, version)
        );
        """
    )
