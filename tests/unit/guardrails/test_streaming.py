"""The hold-back rule: released text equals the one-shot edit, whatever the chunks."""

from hypothesis import given, settings
from hypothesis import strategies as st

from services.guardrails.domain.document import Document
from services.guardrails.domain.merge import apply_edits, drop_contained
from services.guardrails.domain.pii import PiiParams, PiiValidator
from services.guardrails.domain.secrets import SecretsValidator
from services.guardrails.domain.streaming import (
    OPEN_CHARS_MAX,
    Blocked,
    Holdback,
    Judged,
)
from services.guardrails.domain.verdict import Action

PII, SECRETS = PiiValidator(), SecretsValidator()
KEY = (
    "-----BEGIN PRIVATE KEY-----\n"
    + "MIIBOgIBAAJBAKj34GkxFhD9\n" * 40
    + "-----END PRIVATE KEY-----"
)
PIECES = [
    "jane.doe@example.com", "4111 1111 1111 1111", "+44 20 7946 0958",
    "DE89 3704 0044 0532 0130 00",
    "ghp_q3Jt8ZsP0aLw7XnB5vYd2RkHc9UeTf4GmQ1i", "ssn 219-45-6789", "192.0.2.17", KEY, "é😀", "\n",
    "the quick brown fox jumps over the lazy dog " * 4, "a.b.c.", "12", "my card is", ",",
]  # fmt: skip


def judge(text: str) -> Judged:
    document = Document(text)
    spans = [
        span
        for span in (*PII.detect(document, PiiParams()).spans, *SECRETS.detect(document).spans)
        if span.score >= 0.4
    ]
    return Judged(tuple(drop_contained(spans)), Action.MASK if spans else Action.ALLOW)


def edit(span, text):
    return f"<{span.label}>"


def one_shot(text: str) -> str:
    return apply_edits(text, judge(text).masked, edit)


def streamed(text: str, cuts: list[int]) -> str:
    buffer = Holdback(judge, edit)
    out, last = [], 0
    borders = [*sorted({cut % (len(text) + 1) for cut in cuts}), len(text)]
    for border in borders:
        release = buffer.push(text[last:border])
        assert not isinstance(release, Blocked)
        out.append(release.text if release else "")
        last = border
    release = buffer.finish()
    assert not isinstance(release, Blocked)
    out.append(release.text if release else "")
    return "".join(out)


TEXTS = st.lists(st.sampled_from(PIECES), max_size=14).map(" ".join)


@settings(max_examples=400, deadline=None)
@given(TEXTS, st.lists(st.integers(0, 5_000), max_size=12))
def test_streamed_equals_one_shot_for_any_chunking(text, cuts):
    assert streamed(text, cuts) == one_shot(text)


def test_one_character_at_a_time_leaks_nothing():
    text = " ".join(PIECES * 2)
    out = streamed(text, list(range(len(text))))
    assert out == one_shot(text)
    assert "jane" not in out
    assert "MIIBOg" not in out


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
    buffer = Holdback(lambda text: Judged((), Action.BLOCK), edit)
    assert isinstance(buffer.push("word " * 100), Blocked)
    try:
        buffer.push("more")
    except ValueError:
        return
    raise AssertionError("a blocked stream took a chunk")
