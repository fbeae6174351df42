"""One stored event against its leaf: the commitment, and every column that repeats what it says."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from libs.common.transparency.leaf import payload_hash, rfc3339
from libs.common.transparency.tree import VerificationError

# Columns of a search row that repeat members of the stored event.
_REPEATED = ("tenant", "type", "source", "request_id")

PRUNED = "retention.pruned"
_PRUNED_ID = re.compile(r"retention:(required|standard|sampled|all):(\d{1,18})-(\d{1,18})(:\w+)?")


@dataclass(frozen=True, slots=True)
class Pruned:
    """A range whose payloads of one class (`all`: every one) were removed on record.

    The record's id says it all, and the id is part of the leaf: the announcement holds as long as
    its leaf, also once its own payload was removed.
    """

    event_class: str
    start: int
    end: int

    def event_id(self, partition: str = "") -> str:
        """Give the id of the announcement; the same removal after a crash is the same event."""
        name = f"retention:{self.event_class}:{self.start}-{self.end}"
        return f"{name}:{partition}" if partition else name

    @classmethod
    def of_leaf(cls, leaf: bytes) -> "Pruned | None":
        """Read an announcement from its leaf; None when it is another event's."""
        try:
            document = json.loads(leaf)
            if (document["type"], document["source"]) != (PRUNED, "audit"):
                return None
            found = _PRUNED_ID.fullmatch(document["id"])
        except (ValueError, KeyError, TypeError):
            return None
        return cls(found[1], int(found[2]), int(found[3])) if found else None

    def covers(self, index: int, event_class: str) -> bool:
        """Say whether the removal explains a missing row."""
        return self.start <= index < self.end and self.event_class in ("all", event_class)


@dataclass(frozen=True, slots=True)
class Record:
    """What a log stores about one index; None where a row is missing.

    Attributes:
        index: position in the log.
        leaf: exact leaf bytes.
        ingested_at: the column beside the leaf.
        salt / body / retention: the payload's row.
        search: columns of the search row.
        key: (id, source) of the dedupe row.
    """

    index: int
    leaf: bytes
    ingested_at: datetime | None = None
    salt: bytes | None = None
    body: bytes | None = None
    retention: str | None = None
    search: Mapping[str, Any] | None = None
    key: tuple[str, str] | None = None


def parse_leaf(record: Record) -> dict[str, Any]:
    """Give the leaf's members.

    Raises:
        VerificationError: not a leaf of this log.
    """
    try:
        document = json.loads(record.leaf)
        if document["v"] == 1 and all(
            isinstance(document[name], str)
            for name in ("id", "source", "type", "ingested_at", "retention", "payload_hash")
        ):
            return dict(document)
    except (ValueError, KeyError, TypeError):
        pass
    raise VerificationError("the leaf is malformed", index=record.index)


def check_commitment(record: Record, leaf: Mapping[str, Any]) -> None:
    """Check that the payload is the one that the leaf commits to.

    Raises:
        VerificationError: it is another one.
    """
    if record.salt is None or record.body is None:
        return
    found = payload_hash(record.salt, record.body)
    if found != leaf["payload_hash"]:
        raise VerificationError(
            "the payload is not the committed one",
            expected=leaf["payload_hash"],
            found=found,
            index=record.index,
        )


def differences(record: Record, leaf: Mapping[str, Any]) -> Iterator[tuple[str, object, object]]:
    """Give every column that contradicts the leaf or the payload: name, expected, found."""
    if record.ingested_at is not None:
        yield "ingested_at", leaf["ingested_at"], rfc3339(record.ingested_at)
    if record.retention is not None:
        yield "retention", leaf["retention"], record.retention
    if record.key is not None:
        yield "dedupe key", (leaf["id"], leaf["source"]), record.key
    if record.search is None:
        return
    yield "search_row.type", leaf["type"], record.search["type"]
    yield "search_row.source", leaf["source"], record.search["source"]
    yield "search_row.subject", leaf.get("subject"), record.search["subject"]
    yield "search_row.ingested_at", leaf["ingested_at"], rfc3339(record.search["ingested_at"])
    if record.body is not None:
        document = json.loads(record.body)
        for name in _REPEATED:
            yield f"search_row.{name}", document.get(name, ""), record.search[name]
        for name, found in searchable(document["data"]).items():
            yield f"search_row.{name}", found, record.search[name]


def searchable(data: Mapping[str, Any]) -> dict[str, str]:
    """Give the members of `data` by which events are searched."""
    decision = data.get("decision") or data.get("action") or data.get("label")
    return {"decision": _word(decision), "model": _word(data.get("model"))}


def _word(value: object) -> str:
    return value if isinstance(value, str) and len(value) <= 256 and value.isprintable() else ""
