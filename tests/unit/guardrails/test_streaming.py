"""The hold-back rule: released text equals the one-shot edit, whatever the chunks."""

import re
import re._parser as sre  # type: ignore[import-not-found]  # the standard library's own widths are the oracle of ours
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.guardrails_streams import DETECTORS, KEYS, PIECES, POLICY, one_shot, run, splits
from services.guardrails.domain.lexical import RegexValidator, UnboundedError
from services.guardrails.domain.streaming import (
    OPEN_CHARS_MAX,
    Blocked,
    Holdback,
    Judged,
)
from services.guardrails.domain.verdict import Action
from services.guardrails.domain.width import longest_match
from services.guardrails.stream_judge import StreamJudge

RULES = Path(__file__).resolve().parents[3] / "services" / "guardrails" / "rules"


def judge(text: str, total: int, ended: bool) -> Judged:
    return Judged((), Action.ALLOW)


def edit(span, text):
    return f"<{span.label}>"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(PIECES), max_size=14).map(" ".join),
    st.lists(st.integers(0, 5_000), max_size=12),
)
def test_streamed_equals_one_shot_for_any_chunking(text, cuts):
    outcome = run(text, cuts)
    assert (outcome.same, outcome.leaked) == (True, 0)


def test_four_hundred_random_streams_under_all_validators_leak_nothing():
    report = splits(400, seed=3)
    assert (report["leaked_characters"], report["different_from_one_shot"]) == (0, 0)
    assert report["hold_characters"] == 256


def test_one_character_at_a_time_leaks_nothing():
    text = " ".join(PIECES)
    assert len(one_shot(text)[1]) > 20
    assert run(text, range(len(text))).same


@pytest.mark.parametrize("file", ["injection", "malicious"])
def test_no_labelled_rule_matches_more_than_the_hold(file):
    for rule in tomllib.loads((RULES / f"{file}.toml").read_text())["rule"]:
        width = longest_match(rule["pattern"])
        assert width is not None
        # Letter spacing, closed for the injection rules, doubles what stands in the text.
        assert width <= (127 if file == "injection" else 254), rule["name"]


def test_no_recognizer_matches_more_than_it_says():
    # Matches of the first three hold no white space, those of the last two are cut by a fitter.
    free = {"email", "url", "host", "card", "iban"}
    for rule in tomllib.loads((RULES / "pii.toml").read_text())["rule"]:
        width = longest_match(rule["pattern"])
        assert rule["name"] in free or (width is not None and width <= rule["max_span"])


@pytest.mark.parametrize("file", ["pii", "secrets", "injection", "malicious"])
def test_widths_agree_with_the_standard_library(file):
    for rule in tomllib.loads((RULES / f"{file}.toml").read_text())["rule"]:
        widest = sre.parse(re.sub(r"\\p(L|\{Lu\})", "a", rule["pattern"])).getwidth()[1]
        ours = longest_match(rule["pattern"])
        assert ours == (widest if widest < 100_000 else None), rule["name"]


@pytest.mark.parametrize("source", ["a+", "(?:ab){2,}", r"\Qa+\E", "a{1,1000}b{1,1000}"])
def test_a_policys_expression_without_a_bound_cannot_be_streamed(source):
    validator = RegexValidator()
    with pytest.raises(UnboundedError):
        validator.hold(validator.parse({"patterns": {"p": source}}))


def test_padding_with_invisible_characters_does_not_push_a_finding_through():
    text = "4111 1111" + " \u200b" + "\u200b" * 2_000 + "1111 1111 and more words " * 20
    judge = StreamJudge(POLICY, DETECTORS, KEYS)
    buffer = Holdback(judge, judge.edit, hold=judge.hold)
    assert buffer.push(text[:1_500]) is None
    assert run(text, [600, 1_200, 2_000]).leaked == 0


def test_a_length_bound_counts_the_stream_not_the_stretch():
    judge = StreamJudge(POLICY, DETECTORS, KEYS)
    buffer = Holdback(judge, judge.edit, hold=judge.hold)
    for _ in range(40):
        buffer.push("short words here ")
    labels = {label for v in judge.decision(680, 680, blocked=False).verdicts for label in v.labels}
    assert labels == {"TOO_LONG"}


def test_a_long_harmless_text_leaves_before_its_end():
    buffer = Holdback(judge, edit)
    release = buffer.push("word " * 200)
    assert release is not None
    assert not isinstance(release, Blocked)
    assert 1_000 - release.end <= 256 + len("word ")


def test_a_form_without_an_end_is_blocked_at_the_cap():
    buffer = Holdback(judge, edit)
    outcome = buffer.push("a" * (OPEN_CHARS_MAX + 1_000))
    assert isinstance(outcome, Blocked)


def test_a_blocked_stream_takes_no_more():
    buffer = Holdback(lambda text, total, ended: Judged((), Action.BLOCK), edit)
    assert isinstance(buffer.push("word " * 100), Blocked)
    try:
        buffer.push("more")
    except ValueError:
        return
    raise AssertionError("a blocked stream took a chunk")
