"""What routes find under `request.state.audit`."""

from dataclasses import dataclass
from time import monotonic
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge

from libs.common.postgres import Postgres
from services.audit.adapters.anonymizer import Anonymizer
from services.audit.adapters.checkpoints import Checkpointer
from services.audit.adapters.erasures import Erasures
from services.audit.adapters.keys import LogKeys
from services.audit.adapters.log_reader import LogReader
from services.audit.adapters.policies import Policies
from services.audit.adapters.reports import ReportFacts
from services.audit.adapters.retention import Retention
from services.audit.adapters.sequencer import Sequencer
from services.audit.adapters.subjects import SubjectKeys, unsealed


class AuditMetrics:
    """What arrived, by outcome."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.events = Counter(
            "gatehouse_audit_ingested_events_total",
            "Delivered events by outcome.",
            ("status",),
            registry=registry,
        )
        self._checkpoint_age = Gauge(
            "gatehouse_audit_checkpoint_age_seconds",
            "Seconds since a published checkpoint was last known to cover the whole log.",
            registry=registry,
        )
        self._cosignature_age = Gauge(
            "gatehouse_audit_cosignature_age_seconds",
            "Seconds since the witness's cosignature was last known to cover the whole log; "
            "0 without a witness.",
            registry=registry,
        )

    def watch(self, checkpoints: Checkpointer) -> None:
        """Show how far behind the log its checkpoints are."""
        self._checkpoint_age.set_function(lambda: monotonic() - checkpoints.covered_at)
        if checkpoints.witness:
            self._cosignature_age.set_function(lambda: monotonic() - checkpoints.cosigned_at)


@dataclass(frozen=True, slots=True)
class AuditState:
    """The parts of the running service."""

    postgres: Postgres
    keys: LogKeys
    subjects: SubjectKeys
    sequencer: Sequencer
    reader: LogReader
    checkpoints: Checkpointer
    erasures: Erasures
    retention: Retention
    policies: Policies
    facts: ReportFacts
    metrics: AuditMetrics
    anonymizer: Anonymizer | None

    async def unsealed(self, item: dict[str, Any]) -> dict[str, Any]:
        """Give an event with its personal fields readable, or `erased`."""
        subject = item.get("data_subject")
        if not isinstance(subject, dict):
            return item
        async with self.postgres.connection() as connection:
            keys = await self.subjects.by_pseudonym(connection, subject["pseudonym"])
        return unsealed(item, keys)

    async def pseudonym_of(self, tenant: str, data_subject: str) -> str | None:
        """Give the pseudonym of a data subject, None when the log never met it."""
        value = await self.postgres.fetchval(
            "SELECT pseudonym FROM subject_key WHERE subject_hmac = $1",
            self.subjects.hmac_of(tenant, data_subject),
        )
        return None if value is None else str(value)
