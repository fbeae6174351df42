"""Shop sessions: views, carts and purchases of users with latent intent and repeat purchases.

A session either browses or means to buy; only the events show which. Popularity drifts by week,
and users come back to a few favourite items, more often in categories that are used up.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from libs.common.features.windows import CART, DAY_MS, HOUR_MS, PURCHASE, VIEW
from training.generators import draws
from training.generators.world import COUNTRIES

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

GENERATOR_VERSION = "1"
CATEGORIES: tuple[str, ...] = (
    "electronics", "fashion", "home", "beauty", "books", "sports", "toys", "grocery",
)  # fmt: skip
EVENT_TYPES: tuple[str, ...] = ("view", "cart", "purchase")
DEVICES: tuple[str, ...] = ("phone", "desktop", "tablet")
ITEMS_PER_CATEGORY = 60
_LOG_PRICE = np.array([4.8, 3.7, 3.9, 2.9, 2.6, 3.8, 3.2, 1.9])
# How strongly a category is bought again: groceries and beauty are used up.
_REPEAT = np.array([0.08, 0.20, 0.12, 0.45, 0.10, 0.15, 0.15, 0.60])
_USER, _ITEM, _SESSION, _EVENT, _WEEK, _FAVOURITE = 1, 2, 3, 4, 5, 6


@dataclass(frozen=True)
class Sessions:
    """Events in order of time, arrays of shape (n,).

    Attributes:
        event_ms: milliseconds since 1970 UTC.
        session: unique number.
        user: entity number.
        item: category index times `ITEMS_PER_CATEGORY` plus number within it.
        kind: `VIEW`, `CART` or `PURCHASE` of the window engine.
        price_minor: price of the item.
        country: index into `COUNTRIES`.
        device: index into `DEVICES`.
    """

    event_ms: Ints
    session: Ints
    user: Ints
    item: Ints
    kind: Ints
    price_minor: Ints
    country: Ints
    device: Ints

    def __len__(self) -> int:
        return len(self.event_ms)

    @property
    def category(self) -> Ints:
        """Index into `CATEGORIES`."""
        return self.item // ITEMS_PER_CATEGORY

    def select(self, chosen: NDArray[np.bool_] | Ints) -> "Sessions":
        """Keep or reorder rows."""
        return Sessions(*(getattr(self, part.name)[chosen] for part in fields(self)))

    def events(self) -> Iterator[dict[str, object]]:
        """Give each event with the field names of the data contract, Python values."""
        for row in range(len(self)):
            kind = EVENT_TYPES[int(self.kind[row])]
            item, at = item_id(int(self.item[row])), int(self.event_ms[row])
            session = f"session_{int(self.session[row]):015x}"
            yield {
                "event_id": f"{session}_{at}_{kind}_{item}",
                "event_ms": at,
                "session_id": session,
                "user_id": f"user_{int(self.user[row]):08d}",
                "item_id": item,
                "item_category": CATEGORIES[int(self.category[row])],
                "item_price": int(self.price_minor[row]) / 100,
                "event_type": kind,
                "country_code": COUNTRIES[int(self.country[row])],
                "device": DEVICES[int(self.device[row])],
            }


def item_id(item: int) -> str:
    """Name an item, for example `item_electronics_001`."""
    category, number = divmod(item, ITEMS_PER_CATEGORY)
    return f"item_{CATEGORIES[category]}_{number + 1:03d}"


def item_prices(seed: int) -> Ints:
    """Price of every item in minor units, shape (items,)."""
    items = np.arange(len(CATEGORIES) * ITEMS_PER_CATEGORY)
    spread = 0.6 * draws.normal(draws.key(seed, _ITEM, items), 0)
    price = np.exp(_LOG_PRICE[items // ITEMS_PER_CATEGORY] + spread)
    return np.asarray(np.maximum(99, np.rint(price * 100)), dtype=np.int64)


def _popularity(seed: int, weeks: Ints) -> Floats:
    """Cumulative popularity within each category, shape (weeks, categories, items each)."""
    items = np.arange(len(CATEGORIES) * ITEMS_PER_CATEGORY)
    lasting = 1.0 * draws.normal(draws.key(seed, _ITEM, items), 5)
    drift = 0.6 * draws.normal(draws.key(seed, _WEEK, weeks[:, None], items[None, :]), 0)
    weight = np.exp(lasting[None, :] + drift).reshape(len(weeks), len(CATEGORIES), -1)
    return np.asarray(np.cumsum(weight, axis=2) / weight.sum(axis=2, keepdims=True))


def _pick(cumulative: Floats, group: Ints, draw: Floats) -> Ints:
    """Number within each row's group, `cumulative` of shape (groups, k)."""
    width = cumulative.shape[1]
    flat = (cumulative + np.arange(len(cumulative))[:, None]).ravel()
    found = np.searchsorted(flat, group + draw) - group * width
    return np.asarray(np.clip(found, 0, width - 1), dtype=np.int64)


@dataclass(frozen=True)
class _Visits:
    key: draws.Keys
    user: Ints
    start_ms: Ints
    is_buying: NDArray[np.bool_]
    focus: Ints


def _visits(seed: int, users: Ints, start_day: int, days: int) -> _Visits:
    """Draw sessions: who, when, with what intent, in which category."""
    day = start_day + np.arange(days)
    user_keys = draws.key(seed, _USER, users)
    rate = np.clip(np.exp(-1.6 + 0.8 * draws.normal(user_keys, 0)), 0.02, 2.0)
    cells = draws.key(seed, _SESSION, users[:, None], day[None, :])
    counts = draws.poisson(cells, 0, np.broadcast_to(rate[:, None], cells.shape)).ravel()
    cell = np.repeat(np.arange(counts.size), counts)
    number = np.arange(cell.size) - np.repeat(np.cumsum(counts) - counts, counts)
    row = cell // days
    keys = draws.key(seed, _SESSION, users[row], day[cell % days], number)
    propensity = -1.3 + 0.9 * draws.normal(user_keys, 1)[row]
    hour = (19.0 + 3.5 * draws.normal(keys, 1)) % 24.0
    taste = np.exp(
        1.0 * draws.normal(draws.key(seed, _USER, users[:, None], np.arange(8)[None, :]), 2)
    )
    cumulative = np.cumsum(taste, axis=1) / taste.sum(axis=1, keepdims=True)
    return _Visits(
        key=keys,
        user=users[row],
        start_ms=day[cell % days] * DAY_MS + (hour * HOUR_MS).astype(np.int64),
        is_buying=draws.uniform(keys, 2) < 1.0 / (1.0 + np.exp(-propensity)),
        focus=_pick(cumulative, row, draws.uniform(keys, 3)),
    )


def generate(seed: int, users: int | Ints, days: int, start_ms: int) -> Sessions:
    """Generate all events of a period; the same seed gives the same events.

    Args:
        seed: of every draw.
        users: how many (numbers 0 to n - 1), or the entity numbers themselves.
        days: length of the period.
        start_ms: rounded down to midnight UTC.
    """
    numbers = np.arange(users, dtype=np.int64) if isinstance(users, int) else users
    start_day = start_ms // DAY_MS
    visits = _visits(seed, numbers, start_day, days)
    views = 1 + draws.poisson(visits.key, 5, np.where(visits.is_buying, 6.0, 3.0))
    index = np.repeat(np.arange(len(views)), views)
    step = np.arange(index.size) - np.repeat(np.cumsum(views) - views, views)
    keys = draws.key(seed, _EVENT, visits.key[index].view(np.int64), step)
    item = _items(seed, visits, index, keys)
    price = item_prices(seed)[item]
    gap_s = np.where(visits.is_buying[index], 55.0, 35.0) * (0.3 - np.log(draws.uniform(keys, 5)))
    # Whole milliseconds before the running sum: integers do not depend on who else is generated.
    elapsed_ms = np.cumsum((gap_s * 1000).astype(np.int64))
    first = np.repeat(np.cumsum(views) - views, views)
    view_ms = visits.start_ms[index] + elapsed_ms - elapsed_ms[first]

    is_cart = draws.uniform(keys, 6) < np.where(visits.is_buying[index], 0.22, 0.02)
    sensitivity = np.exp(-0.12 * np.maximum(np.log(price / 100.0) - 3.0, 0.0))
    is_bought = is_cart & (
        draws.uniform(keys, 7) < np.where(visits.is_buying[index], 0.75, 0.15) * sensitivity
    )
    last_ms = np.zeros(len(views), dtype=np.int64)
    np.maximum.at(last_ms, index, view_ms)
    bought_ms = last_ms[index] + 60_000 + step * 1_000

    rows = np.concatenate(
        [np.arange(index.size), np.flatnonzero(is_cart), np.flatnonzero(is_bought)]
    )
    kind = np.repeat([VIEW, CART, PURCHASE], [index.size, int(is_cart.sum()), int(is_bought.sum())])
    times = np.concatenate([view_ms, view_ms[is_cart] + 9_000, bought_ms[is_bought]])
    visit = index[rows]
    country = (
        draws.uniform(draws.key(seed, _USER, visits.user[visit]), 9) * len(COUNTRIES)
    ).astype(np.int64)
    device = (draws.uniform(visits.key[visit], 9) * len(DEVICES)).astype(np.int64)
    session = (visits.key[visit] >> np.uint64(4)).astype(np.int64)
    unsorted = Sessions(
        times, session, visits.user[visit], item[rows], kind, price[rows], country, device
    )
    ordered = unsorted.select(np.lexsort((kind, session, times)))
    return ordered.select(ordered.event_ms < (start_day + days) * DAY_MS)


def recent_history(now_ms: int, *, seed: int = 7, users: int = 150, days: int = 31) -> Sessions:
    """Generate the events of the last days up to `now_ms`; `user_00005678` is always among them."""
    numbers = np.unique(np.append(np.arange(users - 1), 5678)).astype(np.int64)
    history = generate(seed, numbers, days, (now_ms // DAY_MS - days + 1) * DAY_MS)
    return history.select(history.event_ms <= now_ms)


def _items(seed: int, visits: _Visits, index: Ints, keys: draws.Keys) -> Ints:
    """Choose the viewed items: popular ones of the focus, favourites, or something else."""
    elsewhere = (draws.uniform(keys, 0) * len(CATEGORIES)).astype(np.int64)
    category = np.where(draws.uniform(keys, 1) < 0.15, elsewhere, visits.focus[index])
    week = visits.start_ms[index] // (7 * DAY_MS)
    weeks, place = np.unique(week, return_inverse=True)
    if not len(weeks):
        return np.empty(0, dtype=np.int64)
    cumulative = _popularity(seed, weeks).reshape(-1, ITEMS_PER_CATEGORY)
    popular = _pick(cumulative, place * len(CATEGORIES) + category, draws.uniform(keys, 2))
    favourite = draws.key(
        seed, _FAVOURITE, visits.user[index], category, (draws.uniform(keys, 3) * 2).astype(int)
    )
    liked = _pick(cumulative, category, draws.uniform(favourite, 0))
    is_repeat = draws.uniform(keys, 4) < _REPEAT[category] * np.where(
        visits.is_buying[index], 1.2, 0.6
    )
    return category * ITEMS_PER_CATEGORY + np.where(is_repeat, liked, popular)
