"""Blobs made straight from lists of events, without the writer: the reader's own input."""

from libs.common.features.layout import (
    SERVING_KEY,
    VIEWS,
    Past,
    RingView,
    code_of,
    country_code,
    mcc_code,
    pack_ring,
    tag_of,
)
from tests.unit.common.features.oracle import Interaction, Payment

COUNTRIES = {-1: None, 1: "GB", 2: "US"}
TENANT = "t1"


class DictRedis:
    """The one command that the reader uses, over a dictionary."""

    def __init__(self, blobs: dict[str, bytes]) -> None:
        self.blobs = {SERVING_KEY: b"1", **blobs}
        self.calls = 0

    async def mget(self, keys: list[str]) -> list[bytes | None]:
        self.calls += 1
        return [self.blobs.get(key) for key in keys]


def name(kind: str, code: int) -> str | None:
    """Give the entity's or attribute's text, None for unknown."""
    return None if code == -1 else f"{kind}_{code}"


def mcc_text(code: int) -> str | None:
    return None if code == -1 else f"{code:04d}"


def fold(view: RingView, records: list[tuple[int, ...]]) -> bytes:
    """Pack a history as the writer would leave it: what is out of reach becomes `past`."""
    newest = max((record[0] for record in records), default=0)
    gone = [record for record in records if record[0] <= newest - view.keep_ms]
    past = Past(
        len(gone),
        sum(record[1] for record in gone),
        sum(record[1] ** 2 for record in gone),
        max((record[0] for record in gone), default=0),
    )
    return pack_ring(view, records[len(gone) :], past=past)


def payment_blobs(payments: list[Payment]) -> dict[str, bytes]:
    """Card and merchant rings of a history; event ids are `e0`, `e1`, ..."""
    records: dict[tuple[str, str], list[tuple[int, ...]]] = {}
    for index, payment in enumerate(payments):
        base = (payment.event_ms, payment.amount_minor, tag_of(f"e{index}"))
        attrs = (
            mcc_code(mcc_text(payment.mcc)),
            country_code(COUNTRIES[payment.country]),
            code_of(name("m", payment.merchant)),
            0 if payment.device == -1 else code_of(name("d", payment.device)),
        )
        records.setdefault(("card", f"c_{payment.card}"), []).append((*base, *attrs))
        if payment.merchant != -1:
            records.setdefault(("merchant", f"m_{payment.merchant}"), []).append(base)
    return _packed(records)


def interaction_blobs(events: list[Interaction]) -> dict[str, bytes]:
    """User, item and session rings of a history."""
    records: dict[tuple[str, str], list[tuple[int, ...]]] = {}
    for index, event in enumerate(events):
        base = (event.event_ms, event.price_minor, tag_of(f"e{index}"))
        category, item = code_of(name("k", event.category)), code_of(name("i", event.item))
        user = (event.kind, category, item, 0)
        records.setdefault(("user", f"u_{event.user}"), []).append((*base, *user))
        records.setdefault(("item", f"i_{event.item}"), []).append((*base, event.kind, 0))
        if event.session != -1:
            entity = ("session", f"s_{event.session}")
            records.setdefault(entity, []).append((*base, event.kind, 0))
    return _packed(records)


def _packed(records: dict[tuple[str, str], list[tuple[int, ...]]]) -> dict[str, bytes]:
    return {
        VIEWS[view].key(TENANT, entity): fold(VIEWS[view], rows)
        for (view, entity), rows in records.items()
    }
