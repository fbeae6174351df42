"""Who pays and where: cards, merchants, categories and countries of the payment generator.

Every attribute is a draw from the entity's own key, so entity 17 is the same card in a world of
100 cards and in one of 100,000.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.generators import draws

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# The README's first request names these two; they are an ordinary American card and a busy
# American supermarket in every world that contains them.
DEMO_CARD = 1234
DEMO_MERCHANT = 12345

COUNTRIES: tuple[str, ...] = (
    "US", "GB", "DE", "FR", "ES", "IT", "NL", "PL", "CA", "BR", "JP", "AU",
)  # fmt: skip
_COUNTRY_WEIGHT = np.array([30, 12, 10, 9, 7, 7, 4, 4, 6, 5, 4, 2], dtype=np.float64)
UTC_OFFSET_H = np.array([-6, 0, 1, 1, 1, 1, 1, 1, -5, -3, 9, 10], dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Category:
    """A kind of shop.

    Attributes:
        mcc: ISO 18245 code.
        log_amount: mean of the log amount in major units.
        spread: standard deviation of the log amount.
        share: how often cards pay there, relative.
        is_remote: paid without the card present, so the country may be foreign.
    """

    mcc: int
    log_amount: float
    spread: float
    share: float
    is_remote: bool = False


CATEGORIES: tuple[Category, ...] = (
    Category(5411, 3.3, 0.70, 26),
    Category(5812, 3.1, 0.60, 13),
    Category(5814, 2.2, 0.50, 11),
    Category(5541, 3.5, 0.45, 9),
    Category(4111, 1.4, 0.50, 7),
    Category(5912, 2.8, 0.70, 6),
    Category(5311, 3.7, 0.80, 4),
    Category(5651, 3.9, 0.70, 5),
    Category(5732, 4.6, 1.00, 3),
    Category(5942, 2.9, 0.60, 2),
    Category(4816, 2.6, 0.80, 3, is_remote=True),
    Category(5815, 2.0, 0.70, 5, is_remote=True),
    Category(5999, 3.2, 0.90, 4),
    Category(7832, 2.7, 0.40, 2),
    Category(4511, 5.3, 0.70, 1, is_remote=True),
    Category(7011, 4.9, 0.70, 1),
    Category(6011, 4.3, 0.60, 5),
    Category(4829, 4.6, 0.90, 0.8, is_remote=True),
    Category(7995, 3.6, 1.00, 1, is_remote=True),
    Category(5944, 5.0, 0.90, 0.5),
    Category(5200, 4.0, 0.90, 2),
    Category(8011, 4.2, 0.70, 1),
    Category(5964, 3.6, 0.90, 4, is_remote=True),
)
MCC = np.array([category.mcc for category in CATEGORIES], dtype=np.int64)
LOG_AMOUNT = np.array([category.log_amount for category in CATEGORIES])
SPREAD = np.array([category.spread for category in CATEGORIES])
SHARE = np.array([category.share for category in CATEGORIES])
IS_REMOTE = np.array([category.is_remote for category in CATEGORIES])

_CARD, _MERCHANT, _TASTE = 1, 2, 3


@dataclass(frozen=True)
class Cards:
    """Cards, one row per id, all arrays of shape (n,) unless stated.

    Attributes:
        ids: entity numbers.
        home: index into `COUNTRIES`.
        rate: payments per day.
        level: shift of the log amount.
        shift_h: shift of the daily rhythm, hours.
        taste: shape (n, categories), cumulative category shares, last column 1.
        opened_day: first day with payments, relative to the start of the generated period.
    """

    ids: Ints
    home: Ints
    rate: Floats
    level: Floats
    shift_h: Floats
    taste: Floats
    opened_day: Ints


@dataclass(frozen=True)
class Merchants:
    """Merchants sorted by (country, category), so that a group is a slice.

    Attributes:
        ids: entity numbers.
        country: index into `COUNTRIES`.
        category: index into `CATEGORIES`.
        level: shift of the log amount.
        cumulative: running sum of popularity over all rows.
        starts: shape (countries * categories + 1,), first row of each group.
    """

    ids: Ints
    country: Ints
    category: Ints
    level: Floats
    cumulative: Floats
    starts: Ints

    def pick(self, country: Ints, category: Ints, draw: Floats) -> Ints:
        """Row of one merchant per element by popularity within its country and category.

        A group without merchants falls back to all merchants.
        """
        group = country * len(CATEGORIES) + category
        low, high = self.starts[group], self.starts[group + 1]
        is_empty = low == high
        low, high = np.where(is_empty, 0, low), np.where(is_empty, len(self.ids), high)
        padded = np.concatenate([[0.0], self.cumulative])
        target = padded[low] + draw * (padded[high] - padded[low])
        row: Ints = np.searchsorted(self.cumulative, target, side="left").astype(np.int64)
        return np.asarray(np.minimum(np.maximum(row, low), high - 1), dtype=np.int64)


def make_cards(seed: int, ids: Ints, days: int) -> Cards:
    """Draw the attributes of cards; one in five opens during the period of `days`."""
    keys = draws.key(seed, _CARD, ids)
    home = draws.choose(keys, 0, _COUNTRY_WEIGHT)
    taste_keys = draws.key(seed, _TASTE, ids[:, None], np.arange(len(CATEGORIES))[None, :])
    weights = SHARE * np.exp(0.7 * draws.normal(taste_keys, 0))
    is_new = draws.uniform(keys, 4) < 0.2
    opened = np.where(is_new, (draws.uniform(keys, 5) * days).astype(np.int64), 0)
    rate = np.clip(np.exp(0.55 + 0.6 * draws.normal(keys, 1)), 0.1, 6.0)
    is_demo = ids == DEMO_CARD
    return Cards(
        ids=ids,
        home=np.where(is_demo, 0, home),
        rate=np.where(is_demo, 2.0, rate),
        level=np.where(is_demo, 0.6, 0.35 * draws.normal(keys, 2)),
        shift_h=1.5 * draws.normal(keys, 3),
        taste=np.cumsum(weights, axis=1) / weights.sum(axis=1, keepdims=True),
        opened_day=np.where(is_demo, 0, opened),
    )


def make_merchants(seed: int, ids: Ints) -> Merchants:
    """Draw the attributes of merchants; popularity follows a Zipf-like Pareto tail."""
    keys = draws.key(seed, _MERCHANT, ids)
    is_demo = ids == DEMO_MERCHANT
    country = np.where(is_demo, 0, draws.choose(keys, 0, _COUNTRY_WEIGHT))
    category = np.where(is_demo, 0, draws.choose(keys, 1, np.sqrt(SHARE)))
    popularity = np.minimum(draws.uniform(keys, 2) ** -1.0, 1_000.0)
    popularity = np.where(is_demo, 1_000.0, popularity)
    level = np.where(is_demo, 0.4, 0.25 * draws.normal(keys, 3))
    group = country * len(CATEGORIES) + category
    order = np.lexsort((ids, group))
    groups = len(COUNTRIES) * len(CATEGORIES)
    return Merchants(
        ids=ids[order],
        country=country[order],
        category=category[order],
        level=level[order],
        cumulative=np.cumsum(popularity[order]),
        starts=np.searchsorted(group[order], np.arange(groups + 1)),
    )
