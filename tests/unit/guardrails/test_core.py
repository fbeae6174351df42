"""Checksums, operators, merging and the guard, against published values and plain oracles."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.guardrails.adapters.builtin_policies import BuiltinPolicies
from services.guardrails.adapters.redis_cache import NoCache
from services.guardrails.domain import checksums
from services.guardrails.domain.document import Document
from services.guardrails.domain.guard import Ask, Guard
from services.guardrails.domain.merge import apply_edits, disjoint
from services.guardrails.domain.operators import (
    CipherError,
    OperatorSpec,
    TenantKeys,
    edit,
    seal,
    unseal,
)
from services.guardrails.domain.pii import PiiParams, default_analyzer
from services.guardrails.domain.verdict import Action, Detection, Overall, Span, Status

KEYS = TenantKeys.derive(b"s" * 32, "one")
SPANS = st.lists(
    st.tuples(st.integers(0, 29), st.integers(1, 10), st.floats(0, 1)).map(
        lambda t: Span(t[0], min(30, t[0] + t[1]), "L", t[2])
    ),
    max_size=12,
)


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (checksums.luhn, "79927398713", "79927398710"),
        (checksums.iban, "FR14 2004 1010 0505 0001 3M02 606", "FR14 2004 1010 0505 0001 3M02 607"),
        (checksums.aba, "011000015", "011000016"),
        (checksums.verhoeff, "2363", "2364"),
        (checksums.ch_ahv, "756.1234.5678.97", "756.1234.5678.98"),
        (checksums.bitcoin, "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa",
         "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNb"),
        (checksums.bitcoin, "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4",
         "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t5"),
        (checksums.vin, "1M8GDM9AXKP042788", "1M8GDM9A1KP042788"),
    ],
)  # fmt: skip
def test_a_checksum_agrees_with_a_published_value(check, good, bad):
    assert check(good)
    assert not check(bad)


@given(SPANS)
def test_disjoint_spans_cover_exactly_the_union(spans):
    kept = disjoint(spans)
    covered = [index for span in kept for index in range(span.start, span.end)]
    assert len(covered) == len(set(covered))
    assert set(covered) == {i for span in spans for i in range(span.start, span.end)}


@given(SPANS)
def test_edits_leave_what_no_span_covers(spans):
    text = "".join(chr(0x100 + index) for index in range(30))
    hidden = {index for span in spans for index in range(span.start, span.end)}
    left = "".join(char for index, char in enumerate(text) if index not in hidden)
    assert apply_edits(text, spans, lambda span, found: "") == left


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"type": "replace"}, "<CARD>"),
        ({"type": "replace", "new_value": "x"}, "x"),
        ({"type": "redact"}, ""),
        ({"type": "keep"}, "4111-1111"),
        ({"type": "mask", "chars_to_mask": 4}, "****-1111"),
        ({"type": "mask", "chars_to_mask": 4, "from_end": True}, "4111-****"),
        ({"type": "mask", "chars_to_mask": 99}, "*********"),
    ],
)
def test_an_operator_gives_what_its_parameters_say(spec, expected):
    assert edit(OperatorSpec(**spec), "CARD", "4111-1111", KEYS) == expected


@pytest.mark.parametrize("kind", ["hash", "synthetic"])
def test_keyed_operators_join_within_a_tenant_only(kind):
    other = TenantKeys.derive(b"s" * 32, "two")
    first = edit(OperatorSpec(type=kind), "CARD", "4111-1111", KEYS)
    assert first == edit(OperatorSpec(type=kind), "CARD", "4111-1111", KEYS)
    assert first != edit(OperatorSpec(type=kind), "CARD", "4111-1111", other)
    assert "4111-1111" not in first


@given(st.text(max_size=60), st.sampled_from([16, 24, 32]))
def test_sealing_is_undone_by_the_same_key_only(text, size):
    sealed = seal(b"k" * size, text)
    assert unseal(b"k" * size, sealed) == text
    with pytest.raises(CipherError):
        unseal(b"x" * size, sealed)


@settings(deadline=None)
@given(st.text(alphabet="ab1 4-.@/:+éDE89", max_size=80))
def test_the_scan_in_front_never_hides_a_match(text):
    analyzer, view = default_analyzer(), Document(text).original
    everything = PiiParams(entities=frozenset(r.entity for r in analyzer.recognizers))
    alone = {hit.span for r in analyzer.recognizers for hit in r.hits(view.utf8)}
    assert {hit.span for hit in analyzer.hits(view, everything)} == alone


class Slow:
    """A validator that waits; counts its calls."""

    name, kind, labels, max_span, lookahead = "pii", "test", (), 1, 0
    version = "1"

    def __init__(self, seconds: float) -> None:
        self.seconds, self.calls = seconds, 0

    def parse(self, params):
        return None

    async def check(self, documents, rule):
        self.calls += 1
        await asyncio.sleep(self.seconds)
        return [Detection(version="1")] * len(documents)


class Broken(Slow):
    """A validator with a defect."""

    async def check(self, documents, rule):
        raise RuntimeError


def _guard(validator) -> Guard:
    return Guard({"pii": validator}, NoCache(), BuiltinPolicies(), b"s" * 32)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("validator", "status"), [(Slow(5.0), Status.TIMEOUT), (Broken(0), Status.ERROR)]
)
async def test_a_validator_that_fails_closed_blocks_and_says_why(validator, status):
    ask = Ask("t", validators=("pii",), remaining_s=lambda most: 0.02)
    (decision,) = (await _guard(validator).check(["a"], ask)).decisions
    assert (decision.action, decision.status) == (Action.BLOCK, Overall.FAILURE)
    assert decision.verdicts[0].status is status


@pytest.mark.anyio
async def test_equal_texts_of_concurrent_calls_are_computed_once():
    slow = Slow(0.05)
    guard = _guard(slow)
    ask = Ask("t", validators=("pii",))
    await asyncio.gather(*(guard.check(["same", "same"], ask) for _ in range(5)))
    assert slow.calls == 1
