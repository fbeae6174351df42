"""Fitters: cut a greedy match to the identifiers within it.

A pattern for a spaced number swallows the number behind it. A fitter takes the match and gives the
stretches that are identifiers, left to right and apart. Its work is linear in the match.
"""

import re
from collections.abc import Callable, Iterator

from services.guardrails.domain.checksums import iban as is_iban
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
_IBAN_START = re.compile(r"(?<![^ -])[A-Za-z]{2}(?=[0-9]{2})")
_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
_URL_TRAILING = ".,;:!?'*]}"


def card(text: str) -> Iterator[tuple[int, int]]:
    """Payment card numbers: issuer range, Luhn, whole groups of digits.

    Sums of digits over prefixes make each Luhn test one subtraction, so that a hostile run of
    single digits costs a constant number of steps per digit.
    """
    places = [index for index, char in enumerate(text) if char.isdigit()]
    digits = "".join([text[index] for index in places])
    sums = _luhn_sums(digits)
    size, begin = len(digits), 0
    while begin + _CARD_LENGTHS[3] <= size:
        if begin and places[begin - 1] + 1 == places[begin]:
            begin += 1
            continue
        end = _card_end(digits, places, sums, begin)
        if end:
            yield places[begin], places[end - 1] + 1
        begin = end or begin + 1


def _card_end(digits: str, places: list[int], sums: tuple[list[int], list[int]], begin: int) -> int:
    """Give the position behind the card that starts at a digit, 0 when none does."""
    if digits[begin] not in "123456":
        return 0
    for length in _CARD_LENGTHS:
        end = begin + length
        if end > len(digits) or (end < len(digits) and places[end - 1] + 1 == places[end]):
            continue
        doubled = sums[end % 2]
        if (doubled[end] - doubled[begin]) % 10 == 0 and _ISSUERS[length].match(digits, begin):
            return end
    return 0


def _luhn_sums(digits: str) -> tuple[list[int], list[int]]:
    """Give running sums in which the digits at even, or at odd, positions count doubled."""
    even, odd = [0], [0]
    for index, char in enumerate(digits):
        plain = int(char)
        doubled = _DOUBLED[plain]
        even.append(even[-1] + (plain if index % 2 else doubled))
        odd.append(odd[-1] + (doubled if index % 2 else plain))
    return even, odd


def iban(text: str) -> Iterator[tuple[int, int]]:
    """IBANs at the starts of groups: the length of their country, a checksum that holds."""
    reached = 0
    for found in _IBAN_START.finditer(text):
        size = IBAN_LENGTHS.get(found[0].upper(), 0)
        if not size or found.start() < reached:
            continue
        end = _behind(text, found.start(), size)
        if end and is_iban(text[found.start() : end]):
            yield found.start(), end
            reached = end


def _behind(text: str, start: int, count: int) -> int:
    """Give the position behind `count` letters and digits, 0 when the text has fewer."""
    for index in range(start, len(text)):
        count -= text[index].isalnum()
        if not count:
            return index + 1
    return 0


def url(text: str) -> Iterator[tuple[int, int]]:
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
    if end:
        yield 0, end


FITTERS: dict[str, Callable[[str], Iterator[tuple[int, int]]]] = {
    "card": card,
    "iban": iban,
    "url": url,
}
