"""Amounts in several currencies: one dated table turns them into the base currency; pure.

The model knows one currency. History is kept in it too: whoever ingests payments converts them by
the same table. A rate that is wrong by some per cent moves every amount feature by that much;
`docs/benchmarks/fraud_production.md` measures what it does to the ranking.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

_CODE_LETTERS = 3


class RatesError(ValueError):
    """The table cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Converted:
    """An amount in the base currency, and how it came about.

    Attributes:
        amount: major units of the base currency.
        rate: base units for one unit of the given currency; 1 for the base itself.
        currency: as given; the base when the request named none.
    """

    amount: float
    rate: float
    currency: str


@dataclass(frozen=True, slots=True)
class CurrencyRates:
    """Rates of one day.

    Attributes:
        base: ISO 4217 code of the currency that models and history know.
        as_of: day of the rates.
        rates: base units for one unit of each other currency.
    """

    base: str
    as_of: date
    rates: Mapping[str, float]

    @classmethod
    def from_json(cls, document: Any) -> "CurrencyRates":
        """Read `{"base": "USD", "as_of": "2025-06-30", "rates": {"EUR": 1.17}}`.

        Raises:
            RatesError: a member is missing, a code or a rate is none.
        """
        try:
            base, listed = str(document["base"]), dict(document["rates"])
            as_of = date.fromisoformat(str(document["as_of"]))
        except (KeyError, TypeError, ValueError):
            raise RatesError("needs base, as_of (a date) and rates") from None
        for code, rate in [(base, 1.0), *listed.items()]:
            if len(code) != _CODE_LETTERS or not code.isascii() or not code.isupper():
                raise RatesError(f"{code} is no ISO 4217 code")
            is_number = isinstance(rate, int | float) and not isinstance(rate, bool)
            if not is_number or not math.isfinite(rate) or rate <= 0:
                raise RatesError(f"the rate of {code} is no number above 0")
        return cls(base, as_of, {code: float(rate) for code, rate in listed.items()})

    def convert(self, amount: float, currency: str | None) -> Converted | None:
        """Give an amount in the base currency; None for a currency without a rate."""
        if currency is None or currency == self.base:
            return Converted(amount, 1.0, self.base)
        rate = self.rates.get(currency)
        return None if rate is None else Converted(amount * rate, rate, currency)


# Rounded rates of mid-2025, so that a first request in euros works. An installation that decides
# about money sets CURRENCY_RATES_PATH to a table of its own.
BUILT_IN = CurrencyRates(
    "USD",
    date(2025, 6, 30),
    {
        "AUD": 0.65,
        "BRL": 0.18,
        "CAD": 0.73,
        "CHF": 1.25,
        "EUR": 1.17,
        "GBP": 1.37,
        "JPY": 0.0069,
        "PLN": 0.28,
    },
)
