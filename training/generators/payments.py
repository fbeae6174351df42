"""Genuine payments: daily rhythm, favourite shops, trips, sprees, bursts and large purchases."""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from training.generators import draws
from training.generators.world import (
    CATEGORIES,
    COUNTRIES,
    DEMO_CARD,
    DEMO_MERCHANT,
    IS_REMOTE,
    LOG_AMOUNT,
    MCC,
    SPREAD,
    UTC_OFFSET_H,
    Cards,
    Floats,
    Ints,
    Merchants,
)

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
_CARD_DAY, _PAYMENT, _TRIP, _FAVOURITE, _BURST = 10, 11, 12, 13, 14
_TRIP_BLOCK_DAYS = 40
_DEVICE, _DEVICE_BLOCK_DAYS = 15, 120
NO_DEVICE = -1
# Share of payments at a till made by a phone, of all payments from a device that is new (a new
# browser, a friend's phone), and of payments with a device that come from the card's second one.
_WALLET_SHARE, _NEW_DEVICE_SHARE, _SECOND_DEVICE_SHARE = 0.3, 0.035, 0.25
_DEVICE_NUMBERS = np.uint64(2**40)
_CASH = int(np.flatnonzero(MCC == 6011)[0])
# Small payments in quick succession that are honest: rides, snacks, games.
_BURST_CATEGORIES = np.array([int(np.flatnonzero(mcc == MCC)[0]) for mcc in (4111, 5814, 5815)])


@dataclass(frozen=True)
class Drafts:
    """Payments before sorting, arrays of shape (n,).

    Attributes:
        key: unique number of the payment.
        card: row in `Cards`.
        merchant: row in `Merchants`.
        event_ms: time of the payment.
        amount: major units, before rounding.
        scenario: index into `frauds.SCENARIOS`, 0 is genuine.
        device: number of the phone or browser that paid, `NO_DEVICE` for a card at a till.
    """

    key: draws.Keys
    card: Ints
    merchant: Ints
    event_ms: Ints
    amount: Floats
    scenario: NDArray[np.int8]
    device: Ints


def join(parts: list[Drafts]) -> Drafts:
    """Put drafts one after the other."""
    return Drafts(
        *(np.concatenate([getattr(part, name.name) for part in parts]) for name in fields(Drafts))
    )


def _day_rates(seed: int, cards: Cards, start_day: int, days: int) -> tuple[Floats, draws.Keys]:
    """Payments per card and day, shape (cards, days), with weekend, holiday and spree factors."""
    day = start_day + np.arange(days)
    weekday = (day + 3) % 7  # 1970-01-01 was a Thursday
    day_of_year = day % 365
    factor = np.where(weekday == 5, 1.25, np.where(weekday == 6, 0.8, 1.0))
    factor = np.where((day_of_year >= 315) & (day_of_year <= 345), factor * 1.25, factor)
    keys = draws.key(seed, _CARD_DAY, cards.ids[:, None], day[None, :])
    is_spree = draws.uniform(keys, 1) < 0.006
    rate = cards.rate[:, None] * factor[None, :] + np.where(is_spree, 4.0, 0.0)
    is_open = np.arange(days)[None, :] >= cards.opened_day[:, None]
    return np.where(is_open, np.minimum(rate, 8.0), 0.0), keys


def _locations(seed: int, cards: Cards, card: Ints, day: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """Country in which each payment's card is that day, and whether it travels."""
    block = day // _TRIP_BLOCK_DAYS
    keys = draws.key(seed, _TRIP, cards.ids[card], block)
    first = (draws.uniform(keys, 1) * 28).astype(np.int64)
    length = 3 + (draws.uniform(keys, 2) * 9).astype(np.int64)
    offset = day - block * _TRIP_BLOCK_DAYS
    is_away = (draws.uniform(keys, 0) < 0.2) & (offset >= first) & (offset < first + length)
    abroad = (draws.uniform(keys, 3) * len(COUNTRIES)).astype(np.int64)
    return np.where(is_away, abroad, cards.home[card]), is_away


def _times(keys: draws.Keys, shift_h: Floats, country: Ints, day: Ints) -> Ints:
    """Event times with peaks at noon and in the evening, local time of the country."""
    kind = draws.uniform(keys, 20)
    hour = np.where(kind < 0.45, 12.5, 18.5) + 2.2 * draws.normal(keys, 21) + shift_h
    hour = np.where(kind > 0.85, 24.0 * draws.uniform(keys, 22), hour)
    milliseconds = ((hour - UTC_OFFSET_H[country]) % 24.0 * HOUR_MS).astype(np.int64)
    return day * DAY_MS + milliseconds


def genuine(seed: int, cards: Cards, merchants: Merchants, start_day: int, days: int) -> Drafts:
    """Draw all honest payments of a period, in card order."""
    rate, day_keys = _day_rates(seed, cards, start_day, days)
    counts = draws.poisson(day_keys, 0, rate).ravel()
    cell = np.repeat(np.arange(counts.size), counts)
    card, day = cell // days, start_day + cell % days
    number = np.arange(cell.size) - np.repeat(np.cumsum(counts) - counts, counts)
    keys = draws.key(seed, _PAYMENT, cards.ids[card], day, number)

    flat = (cards.taste + np.arange(len(cards.ids))[:, None]).ravel()
    chosen = np.searchsorted(flat, card + draws.uniform(keys, 0)) - card * len(CATEGORIES)
    category = np.clip(chosen, 0, len(CATEGORIES) - 1)
    country, is_away = _locations(seed, cards, card, day)
    is_foreign = IS_REMOTE[category] & (draws.uniform(keys, 1) < 0.25)
    other = (draws.uniform(keys, 2) * len(COUNTRIES)).astype(np.int64)
    shop_country = np.where(is_foreign, other, country)

    favourite = (3 * draws.uniform(keys, 4) ** 2).astype(np.int64)
    habit = draws.key(seed, _FAVOURITE, cards.ids[card], category * 100 + shop_country, favourite)
    is_habit = draws.uniform(keys, 3) < 0.6
    draw = np.where(is_habit, draws.uniform(habit, 0), draws.uniform(keys, 5))
    merchant = merchants.pick(shop_country, category, draw)
    merchant = _demo_habit(keys, cards.ids[card], merchants, merchant)
    amount = _amounts(keys, cards.level[card], merchants, merchant)
    amount = np.where(is_away, amount * 1.3, amount)
    event_ms = _times(keys, cards.shift_h[card], country, day)
    scenario = np.zeros(len(keys), dtype=np.int8)
    device = own_device(seed, keys, cards.ids[card], merchants.category[merchant], event_ms)
    drafts = Drafts(keys, card, merchant, event_ms, amount, scenario, device)
    return join([drafts, _bursts(seed, cards, merchants, drafts)])


def own_device(seed: int, keys: draws.Keys, card_id: Ints, category: Ints, event_ms: Ints) -> Ints:
    """Number the device of payments by the card's owner; a card has two, replaced now and then."""
    # The second device is replaced half a block after the first.
    which = (draws.uniform(keys, 50) < _SECOND_DEVICE_SHARE).astype(np.int64)
    day = event_ms // DAY_MS + which * (_DEVICE_BLOCK_DAYS // 2) + card_id % _DEVICE_BLOCK_DAYS
    owned = draws.key(seed, _DEVICE, card_id, day // _DEVICE_BLOCK_DAYS, which)
    is_new = draws.uniform(keys, 51) < _NEW_DEVICE_SHARE
    number = device_number(np.where(is_new, keys, owned))
    has_device = IS_REMOTE[category] | (draws.uniform(keys, 52) < _WALLET_SHARE)
    return np.where(has_device, number, NO_DEVICE)


def device_number(keys: draws.Keys) -> Ints:
    """Turn a key into the number of a device, below 2^40."""
    return (keys % _DEVICE_NUMBERS).astype(np.int64)


def _demo_habit(keys: draws.Keys, card_id: Ints, merchants: Merchants, merchant: Ints) -> Ints:
    """Send the demo card's groceries at home to the demo merchant, nine times in ten."""
    row = np.flatnonzero(merchants.ids == DEMO_MERCHANT)
    if not row.size:
        return merchant
    is_same_kind = (merchants.category[merchant] == merchants.category[row[0]]) & (
        merchants.country[merchant] == merchants.country[row[0]]
    )
    is_habit = (card_id == DEMO_CARD) & is_same_kind & (draws.uniform(keys, 6) < 0.9)
    return np.where(is_habit, row[0], merchant)


def _amounts(keys: draws.Keys, level: Floats, merchants: Merchants, merchant: Ints) -> Floats:
    """Log-normal spend by category, with card and merchant levels; 0.5 % are large purchases."""
    category = merchants.category[merchant]
    log_amount = LOG_AMOUNT[category] + level + merchants.level[merchant]
    amount = np.exp(log_amount + SPREAD[category] * draws.normal(keys, 30))
    is_large = draws.uniform(keys, 31) < 0.005
    amount = np.where(is_large, amount * (3.0 + 9.0 * draws.uniform(keys, 32)), amount)
    return np.where(category == _CASH, np.maximum(10.0, np.round(amount / 10.0) * 10.0), amount)


def _bursts(seed: int, cards: Cards, merchants: Merchants, drafts: Drafts) -> Drafts:
    """Follow 0.4 % of payments by two to six small ones within minutes."""
    first = np.flatnonzero(draws.uniform(drafts.key, 40) < 0.004)
    counts = 2 + (draws.uniform(drafts.key[first], 41) * 5).astype(np.int64)
    parent = np.repeat(first, counts)
    number = np.arange(parent.size) - np.repeat(np.cumsum(counts) - counts, counts)
    card = drafts.card[parent]
    keys = draws.key(seed, _BURST, drafts.key[parent].view(np.int64), number)
    kind = (draws.uniform(drafts.key[parent], 42) * len(_BURST_CATEGORIES)).astype(np.int64)
    country = merchants.country[drafts.merchant[parent]]
    merchant = merchants.pick(
        country, _BURST_CATEGORIES[kind], draws.uniform(drafts.key[parent], 43)
    )
    gap_s = 30 + 270 * draws.uniform(drafts.key[parent], 44)
    event_ms = drafts.event_ms[parent] + ((number + 1) * gap_s * 1000).astype(np.int64)
    amount = np.exp(1.0 + 0.7 * draws.normal(keys, 0))
    device = own_device(seed, keys, cards.ids[card], merchants.category[merchant], event_ms)
    scenario = np.zeros(len(keys), dtype=np.int8)
    return Drafts(keys, card, merchant, event_ms, amount, scenario, device)
