"""How a feature service is read: its views, and its raw columns from their rings.

Pure. Each plan has two ways to the same values: one row after the other, and all rows at once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from libs.common.features import columns as columns_of
from libs.common.features import rows as one_row
from libs.common.features.computed import ComputedView, entity_key
from libs.common.features.contract import FeatureRequest, FeatureService
from libs.common.features.laid import IntArray, LaidRings, Rows
from libs.common.features.layout import VIEWS, Ring, code_of, country_code, mcc_code, tag_of
from libs.common.features.shipped import SHIPPED
from libs.common.features.windows import DAY_MS, HOUR_MS, NULL_CODE, hour_and_weekday

_NAN = float("nan")
# A row whose request does not name the entity, or whose ring cannot be read.
ABSENT = -1
TTL_MS = {view.name: view.ttl_ms for view in VIEWS.values()}
TTL_MS |= {view.name: view.ttl_ms for view in SHIPPED.values()}

Places = list[tuple[int, int]]


@dataclass(slots=True)
class Batch:
    """The rows of one call.

    Attributes:
        rings: laid rings by view.
        numbers: by view, the ring of each row, `ABSENT` for none.
    """

    requests: list[FeatureRequest]
    now_ms: IntArray
    rings: dict[str, LaidRings]
    numbers: dict[str, NDArray[np.int64]]

    def integers(self, name: str) -> IntArray:
        """Take whole numbers from the requests, `NULL_CODE` where there is none."""
        given = (request.values.get(name) for request in self.requests)
        return np.array(
            [value if isinstance(value, int) else NULL_CODE for value in given], dtype=np.int64
        )

    def codes(self, name: str, encode: Callable[[str | None], int]) -> IntArray:
        """Encode one text of the requests' values, `NULL_CODE` where there is none."""
        given = (request.values.get(name) for request in self.requests)
        return np.array(
            [NULL_CODE if value is None else encode(str(value)) for value in given], dtype=np.int64
        )

    def entity_codes(self, view: str) -> IntArray:
        """Encode the entities of the requests, `NULL_CODE` where there is none."""
        return np.array([code_of(request.entities.get(view)) for request in self.requests])

    def clock(self) -> columns_of.Values:
        """Give hour and weekday of each row."""
        hour, weekday = hour_and_weekday(self.now_ms)
        return {"request:hour": hour, "request:weekday": weekday}

    def without_current(self, view: str) -> None:
        """Leave out of each row's ring the event that the row itself is."""
        numbers, laid = self.numbers[view], self.rings[view]
        for index, request in enumerate(self.requests):
            if request.event_id is not None and numbers[index] > 0:
                numbers[index] = laid.without(int(numbers[index]), tag_of(request.event_id))

    def compute(
        self, view: str, columns: Callable[..., columns_of.Values], *arguments: IntArray
    ) -> columns_of.Values:
        """Compute a view's columns for the rows that have a ring; the others are NaN."""
        numbers = self.numbers[view]
        chosen = np.flatnonzero(numbers != ABSENT)
        if not len(chosen):
            return {}
        is_all = len(chosen) == len(numbers)
        taken = slice(None) if is_all else chosen
        rows = Rows(self.rings[view], numbers[taken], self.now_ms[taken], columns_of.WINDOWS[view])
        found = columns(rows, *(argument[taken] for argument in arguments))
        if is_all:
            return found
        spread: columns_of.Values = {}
        for name, values in found.items():
            spread[name] = np.full(len(numbers), _NAN)
            spread[name][chosen] = values
        return spread


def _fraud(batch: Batch) -> columns_of.Values:
    amount, mcc = batch.integers("amount_minor"), batch.codes("mcc_code", mcc_code)
    found = batch.clock()
    found["request:amount"] = np.where(amount == NULL_CODE, _NAN, amount / 100.0)
    found["request:mcc"] = np.where(mcc == NULL_CODE, _NAN, mcc)
    # Without an amount no window can include the current payment.
    for view in ("card", "merchant"):
        batch.without_current(view)
        batch.numbers[view] = np.where(amount == NULL_CODE, ABSENT, batch.numbers[view])
    country, merchant = batch.codes("country_code", country_code), batch.entity_codes("merchant")
    device = batch.codes("device_id", code_of)
    card = (amount, mcc, country, merchant, device)
    found |= batch.compute("card", columns_of.card_columns, *card)
    found |= batch.compute("merchant", columns_of.merchant_columns, amount)
    return found


def _personalization(batch: Batch) -> columns_of.Values:
    price, category = batch.integers("price_minor"), batch.codes("item_category", code_of)
    found = batch.clock()
    found["request:price"] = np.where(price == NULL_CODE, _NAN, price / 100.0)
    found |= batch.compute("user", columns_of.user_columns, category, batch.entity_codes("item"))
    found |= batch.compute("session", columns_of.session_columns)
    found |= batch.compute("item", columns_of.item_columns)
    return found


Rings = Mapping[str, Ring | None]


def _fraud_row(request: FeatureRequest, rings: Rings) -> one_row.Values:
    values = {**request.values, "merchant": request.entities.get("merchant")}
    amount_minor = _integer(values, "amount_minor")
    mcc = values.get("mcc_code")
    found: one_row.Values = {
        **_clock(request.now_ms),
        "request:amount": _NAN if amount_minor is None else amount_minor / 100.0,
        "request:mcc": _NAN if mcc is None else float(str(mcc)),
    }
    if amount_minor is None:
        return found
    tag = None if request.event_id is None else tag_of(request.event_id)
    if "card" in rings:
        events = one_row.Events(rings["card"], request.now_ms, tag)
        found |= one_row.card_row(events, amount_minor, values)
    if "merchant" in rings:
        events = one_row.Events(rings["merchant"], request.now_ms, tag)
        found |= one_row.merchant_row(events, amount_minor)
    return found


def _personalization_row(request: FeatureRequest, rings: Rings) -> one_row.Values:
    values = {**request.values, "item": request.entities.get("item")}
    price_minor = _integer(values, "price_minor")
    found: one_row.Values = {
        **_clock(request.now_ms),
        "request:price": _NAN if price_minor is None else price_minor / 100.0,
    }
    if "user" in rings:
        found |= one_row.user_row(one_row.Events(rings["user"], request.now_ms), values)
    if "session" in rings:
        found |= one_row.session_row(one_row.Events(rings["session"], request.now_ms))
    if "item" in rings:
        found |= one_row.item_row(one_row.Events(rings["item"], request.now_ms))
    return found


def _clock(now_ms: int) -> one_row.Values:
    return {
        "request:hour": float(now_ms // HOUR_MS % 24),
        "request:weekday": float((now_ms // DAY_MS + 3) % 7),
    }


def _integer(values: Mapping[str, object], name: str) -> int | None:
    value = values.get(name)
    return value if isinstance(value, int) else None


@dataclass(frozen=True, slots=True)
class Plan:
    """How a feature service is read: its views, and its columns from their rings.

    Attributes:
        one: for a single row.
        together: for all rows at once, with the same result.
        shipped: computed views besides.
        places: by shipped view, its aggregates' numbers with the columns that name them.
    """

    views: tuple[str, ...]
    one: Callable[[FeatureRequest, Rings], one_row.Values]
    together: Callable[[Batch], columns_of.Values]
    shipped: tuple[ComputedView, ...] = ()
    places: Mapping[str, Places] = field(default_factory=dict)


_FRAUD = Plan(("card", "merchant"), _fraud_row, _fraud)
_PERSONALIZATION = Plan(("user", "session", "item"), _personalization_row, _personalization)


@cache
def plan_of(service: FeatureService) -> Plan:
    """Plan a service by the views that it names."""
    named = {name.partition(":")[0] for name in service.raw}
    base = _PERSONALIZATION if named & set(_PERSONALIZATION.views) else _FRAUD
    shipped = tuple(view for view in SHIPPED.values() if view.name in named)
    places = {view.name: _places(view, service.raw) for view in shipped}
    return replace(base, shipped=shipped, places=places)


def _places(view: ComputedView, names: Sequence[str]) -> Places:
    listed = [f"{view.name}:{item.name}" for item in view.aggregates]
    return [(place, names.index(name)) for place, name in enumerate(listed) if name in names]


def views_of(service: FeatureService) -> tuple[str, ...]:
    """Name the built-in views whose rings a feature service reads."""
    return plan_of(service).views


def shipped_of(service: FeatureService) -> tuple[ComputedView, ...]:
    """Give the shipped views that a feature service reads."""
    return plan_of(service).shipped


def entities_of(view: ComputedView, requests: Sequence[FeatureRequest]) -> list[str | None]:
    """Give each request's entity of a shipped view, None where it names none."""
    name = view.join_keys[0].removesuffix("_id")
    return [
        None if (entity := request.entities.get(name)) is None else entity_key([entity])
        for request in requests
    ]
