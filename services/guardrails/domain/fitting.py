"""Fitters: cut a greedy match to the identifier it starts with.

A pattern for a spaced number swallows the number behind it. A fitter takes the match and gives the
length of the identifier at its start, 0 when there is none.
"""

import re
from collections.abc import Callable

from services.guardrails.domain.checksums import luhn
from services.guardrails.domain.names import IBAN_LENGTHS

# Issuer prefixes by length (ISO/IEC 7812 issuer ranges in use).
_ISSUERS: dict[int, re.Pattern[str]] = {
    13: re.compile(r"[456]"),
    14: re.compile(r"3[0689]"),
    15: re.compile(r"3[47]|1800|2131|5|6"),
    16: re.compile(r"[3456]|2[2-7]"),
    17: re.compile(r"[456]"),
    18: re.compile(r"[456]"),
    19: re.compile(r"[456]"),
}
# Most common length first.
_CARD_LENGTHS = (16, 15, 14, 13, 19, 18, 17)
_URL_TRAILING = ".,;:!?'*]}"


def _cut(text: str, count: int, counts: Callable[[str], bool]) -> int:
    """Give the position behind the `count`-th character that counts, 0 if there are fewer."""
    seen = 0
    for index, char in enumerate(text):
        seen += counts(char)
        if seen == count:
            return index + 1
    return 0


def card(text: str) -> int:
    """A payment card number: issuer range, Luhn, not cut in the middle of digits."""
    digits = "".join(char for char in text if char.isdigit())
    for size in _CARD_LENGTHS:
        if len(digits) < size or not _ISSUERS[size].match(digits) or not luhn(digits[:size]):
            continue
        end = _cut(text, size, str.isdigit)
        if not text[end : end + 1].isdigit():
            return end
    return 0


def iban(text: str) -> int:
    """An IBAN: as many letters and digits as its country has."""
    size = IBAN_LENGTHS.get(text[:2].upper(), 0)
    return _cut(text, size, str.isalnum) if size else 0


def url(text: str) -> int:
    """A URL without the punctuation of the sentence around it."""
    end = len(text)
    unopened = text.count(")") - text.count("(")
    while end:
        last = text[end - 1]
        if last == ")" and unopened > 0:
            unopened -= 1
        elif last not in _URL_TRAILING:
            break
        end -= 1
    return end


FITTERS: dict[str, Callable[[str], int]] = {"card": card, "iban": iban, "url": url}
