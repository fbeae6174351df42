"""Texts of 10 kB made to be slow cost little, and the cost grows with the length only."""

import time
from typing import Any

import pytest

from services.guardrails.domain.document import Document
from services.guardrails.domain.fitting import card
from services.guardrails.domain.lexical import injection_validator, malicious_validator
from services.guardrails.domain.pii import PiiValidator
from services.guardrails.domain.secrets import SecretsValidator

VALIDATORS: tuple[Any, ...] = (
    PiiValidator(),
    SecretsValidator(),
    injection_validator(),
    malicious_validator(),
)
UNITS = (
    "a.", "1 ", "4 ", "4-", "4111 ", "a ", "1.", "%41", "DE89 ", "a@b.co ", "00:", "card 4 ",
    "1234567890 ", "account 1234567890 ", "AB123456C ", "a\u200b", "ignore all ", "key=aB3 ",
)  # fmt: skip
# The bar is 50 ms on an idle machine (benchmarks/guardrails.py); tests share theirs.
MILLISECONDS_MAX = 250


def _milliseconds(text: str) -> float:
    best = float("inf")
    for _ in range(3):
        document = Document(text)
        began = time.process_time()
        for validator in VALIDATORS:
            validator.detect(document, validator.parse({}))
        best = min(best, (time.process_time() - began) * 1e3)
    return best


@pytest.mark.parametrize("unit", UNITS)
def test_ten_kilobytes_of_a_hostile_unit_are_checked_in_linear_time(unit):
    short, long = (_milliseconds((unit * size)[:size]) for size in (2_500, 10_000))
    assert long <= MILLISECONDS_MAX
    # Four times the text: 4 times the work when linear, 16 times when quadratic.
    assert long <= 12 * short + 10


def test_card_numbers_are_found_in_a_run_of_single_digits_and_side_by_side():
    spaced = "9 9 " + " ".join("4111111111111111")
    assert list(card(spaced)) == [(4, len(spaced))]
    both = "4111111111111111 5555555555554444"
    assert list(card(both)) == [(0, 16), (17, 33)]
