"""Fraud episodes: five ways in which a card is misused, each a burst of payments on one card."""

from dataclasses import dataclass

import numpy as np

from training.generators import draws
from training.generators.payments import (
    DAY_MS,
    HOUR_MS,
    NO_DEVICE,
    Drafts,
    device_number,
    join,
    own_device,
)
from training.generators.world import (
    COUNTRIES,
    DEMO_CARD,
    IS_REMOTE,
    LOG_AMOUNT,
    MCC,
    SHARE,
    SPREAD,
    Cards,
    Floats,
    Ints,
    Merchants,
)

SCENARIOS: tuple[str, ...] = (
    "genuine",
    "card_testing",
    "account_takeover",
    "compromised_merchant",
    "stolen_card",
    "bust_out",
)
_EPISODE, _MISUSE, _BREACH = 50, 51, 52
# Share of (merchant, week) pairs in which card data leaks, and of that week's cards misused.
_BREACH_RATE, _CLONE_SHARE = 0.0010, 0.3
# Share of fraudulent payments in the categories where everybody pays; without it the category
# alone would tell fraud apart (AUC .82).
_USUAL_SHARE = 0.5
# Share of misuse that goes to the shops where thieves cash out that month: few per country and
# category, so that a shop's reported frauds say something about its next payments.
_CASH_OUT_SHARE, _CASH_OUT_DAYS, _CASH_OUT_SHOPS = 0.35, 45, 2
_CASH_OUT, _SHOP_COUNTRY = 53, 100
# Share of misuse at a till that is made by a phone with the stolen card in it.
_THIEF_WALLET_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Pattern:
    """How one scenario unfolds once it starts.

    Attributes:
        scenario: index into `SCENARIOS`.
        daily_rate: chance per card and day that an episode starts.
        payments: fewest and most payments of an episode.
        span_h: shortest and longest duration, hours.
        mccs: categories where the payments go.
        home_share: share of episodes in the card's home country.
        own_device_share: share of episodes from the card owner's own devices.
        scale: smallest and largest factor on the category's usual amount.
    """

    scenario: int
    daily_rate: float
    payments: tuple[int, int]
    span_h: tuple[float, float]
    mccs: tuple[int, ...]
    home_share: float
    scale: tuple[float, float]
    own_device_share: float = 0.05


TESTING = Pattern(1, 0.00032, (3, 9), (0.05, 0.8), (5815, 4816, 5964, 5999), 0.5, (0.05, 0.3))
TESTING_USE = Pattern(1, 0.0, (1, 2), (0.2, 3.0), (5732, 5964, 5311, 5651), 0.5, (1.0, 4.0))
TAKEOVER = Pattern(
    2,
    0.0005,
    (3, 7),
    (0.3, 6.0),
    (5732, 5964, 5311, 4829, 5944, 5651, 4511),
    0.35,
    (1.5, 6.0),
    own_device_share=0.15,
)
CLONE = Pattern(
    3, 0.0, (2, 5), (0.2, 20.0), (5411, 5541, 5311, 5732, 5999, 5651, 5812), 0.5, (1.2, 4.0)
)
STOLEN = Pattern(
    4, 0.0005, (3, 7), (0.3, 8.0), (5411, 5541, 5812, 5311, 6011, 5999, 5732), 0.85, (1.0, 4.0)
)
BUST_OUT = Pattern(
    5,
    0.00006,
    (10, 28),
    (50.0, 150.0),
    (5732, 5944, 6011, 4829, 4511, 5311, 5200),
    0.9,
    (1.5, 5.0),
    own_device_share=1.0,
)


def fraudulent(
    seed: int, cards: Cards, merchants: Merchants, honest: Drafts, start_day: int, days: int
) -> Drafts:
    """Draw all fraudulent payments; breaches need the honest payments that they follow."""
    parts: list[Drafts] = []
    for pattern in (TESTING, TAKEOVER, STOLEN, BUST_OUT):
        keys, card, start_ms = _episodes(seed, pattern, cards, start_day, days)
        parts.append(_payments(seed, pattern, cards, merchants, keys, card, start_ms))
        if pattern is TESTING:
            later_ms = start_ms + HOUR_MS
            parts.append(_payments(seed, TESTING_USE, cards, merchants, keys, card, later_ms))
    keys, card, start_ms = _breaches(seed, cards, merchants, honest)
    parts.append(_payments(seed, CLONE, cards, merchants, keys, card, start_ms))
    return join(parts)


def _episodes(
    seed: int, pattern: Pattern, cards: Cards, start_day: int, days: int
) -> tuple[draws.Keys, Ints, Ints]:
    """Key, card row and start time of each episode."""
    day = start_day + np.arange(days)
    keys = draws.key(seed, _EPISODE + 100 * pattern.scenario, cards.ids[:, None], day[None, :])
    is_open = np.arange(days)[None, :] >= cards.opened_day[:, None] + 3
    starts = (draws.uniform(keys, 0) < pattern.daily_rate) & is_open
    starts &= (cards.ids != DEMO_CARD)[:, None]
    card, column = np.nonzero(starts)
    chosen = keys[starts]
    start_ms = day[column] * DAY_MS + (draws.uniform(chosen, 1) * DAY_MS).astype(np.int64)
    return chosen, card.astype(np.int64), start_ms


def _breaches(
    seed: int, cards: Cards, merchants: Merchants, honest: Drafts
) -> tuple[draws.Keys, Ints, Ints]:
    """Cards copied at a leaking merchant; misuse starts one to ten days later."""
    week = honest.event_ms // (7 * DAY_MS)
    leak = draws.key(seed, _BREACH, merchants.ids[honest.merchant], week)
    is_copied = (draws.uniform(leak, 0) < _BREACH_RATE) & (
        draws.uniform(honest.key, 60) < _CLONE_SHARE
    )
    is_copied &= cards.ids[honest.card] != DEMO_CARD
    chosen = np.flatnonzero(is_copied)
    delay_ms = ((1.0 + 9.0 * draws.uniform(honest.key[chosen], 61)) * DAY_MS).astype(np.int64)
    keys = draws.key(seed, _BREACH, honest.key[chosen].view(np.int64))
    return keys, honest.card[chosen], honest.event_ms[chosen] + delay_ms


def _between(bounds: tuple[float, float], draw: Floats) -> Floats:
    return bounds[0] + (bounds[1] - bounds[0]) * draw


def _payments(
    seed: int,
    pattern: Pattern,
    cards: Cards,
    merchants: Merchants,
    episode: draws.Keys,
    episode_card: Ints,
    start_ms: Ints,
) -> Drafts:
    """Spread the payments of each episode over its span."""
    low, high = pattern.payments
    counts = low + (draws.uniform(episode, 2) * (high - low + 1)).astype(np.int64)
    index = np.repeat(np.arange(len(episode)), counts)
    number = np.arange(index.size) - np.repeat(np.cumsum(counts) - counts, counts)
    parent, card = episode[index], episode_card[index]
    # The payments range separates the trial and the use phase of card testing.
    keys = draws.key(seed, _MISUSE, parent.view(np.int64), low, number)

    rows = np.array([int(np.flatnonzero(mcc == MCC)[0]) for mcc in pattern.mccs])
    is_same_shop = draws.uniform(parent, 3) < 0.4
    shop_keys = np.where(is_same_shop, parent, keys)
    category = rows[(draws.uniform(shop_keys, 4) * len(rows)).astype(np.int64)]
    is_usual = draws.uniform(shop_keys, 12) < _USUAL_SHARE
    category = np.where(is_usual, draws.choose(shop_keys, 13, SHARE), category)
    abroad = (draws.uniform(parent, 5) * len(COUNTRIES)).astype(np.int64)
    is_home = draws.uniform(parent, 6) < pattern.home_share
    country = np.where(is_home, cards.home[card], abroad)
    span_ms = _between(pattern.span_h, draws.uniform(parent, 8)) * HOUR_MS
    event_ms = start_ms[index] + (span_ms * draws.uniform(keys, 9)).astype(np.int64)
    month = event_ms // (_CASH_OUT_DAYS * DAY_MS)
    one_of = (draws.uniform(shop_keys, 15) * _CASH_OUT_SHOPS).astype(np.int64)
    known = draws.key(seed, _CASH_OUT, category * _SHOP_COUNTRY + country, month, one_of)
    is_known = draws.uniform(shop_keys, 14) < _CASH_OUT_SHARE
    chance = np.where(is_known, draws.uniform(known, 0), draws.uniform(shop_keys, 7))
    merchant = merchants.pick(country, category, chance)
    category = merchants.category[merchant]
    scale = _between(pattern.scale, draws.uniform(keys, 10))
    log_amount = LOG_AMOUNT[category] + 0.5 * cards.level[card] + merchants.level[merchant]
    amount = scale * np.exp(log_amount + 0.8 * SPREAD[category] * draws.normal(keys, 11))
    scenario = np.full(len(keys), pattern.scenario, dtype=np.int8)
    device = np.where(
        draws.uniform(parent, 16) < pattern.own_device_share,
        own_device(seed, keys, cards.ids[card], category, event_ms),
        _thief_device(parent, keys, category),
    )
    return Drafts(keys, card, merchant, event_ms, amount, scenario, device)


def _thief_device(episode: draws.Keys, keys: draws.Keys, category: Ints) -> Ints:
    """Number the thief's device, one per episode, where the payment needs one."""
    has_device = IS_REMOTE[category] | (draws.uniform(keys, 17) < _THIEF_WALLET_SHARE)
    return np.where(has_device, device_number(episode), NO_DEVICE)
