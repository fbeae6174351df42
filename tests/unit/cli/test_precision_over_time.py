"""Precision over the replayed day against a plain count."""

from hypothesis import given
from hypothesis import strategies as st

from libs.cli.demo import Decision, precision_over_time
from libs.cli.payments import Payment


def _decision(at_ms: int, score: float, is_fraud: bool) -> Decision:
    payment = Payment(f"t{at_ms}", at_ms, "c", "m", 100, None, None, is_fraud)
    action = "review" if score >= 0.5 else "approve"
    return Decision(payment, "r", {"fraud_score": score, "recommended_action": action}, 1.0)


def test_parts_cover_the_day_and_look_at_its_highest_scores():
    day = [_decision(at, at / 100, is_fraud=at in {7, 90, 95}) for at in range(100)]
    spans = precision_over_time(day, k=10, parts=2)
    assert [span.payments for span in spans] == [50, 50]
    assert [span.frauds for span in spans] == [1, 2]
    assert [span.precision for span in spans] == [0.0, 0.2]
    assert (spans[1].precision_so_far, spans[1].possible_so_far) == (0.2, 0.3)
    assert (spans[1].stopped, spans[1].frauds_so_far) == (2, 3)


_ROWS = st.lists(
    st.tuples(st.integers(0, 1_000), st.floats(0, 1), st.booleans()), min_size=1, max_size=40
)


@given(_ROWS, st.integers(1, 12), st.integers(1, 9))
def test_the_last_part_sees_the_whole_day(rows, k: int, parts: int):
    day = [_decision(*row) for row in sorted(rows, key=lambda row: row[0])]
    spans = precision_over_time(day, k=k, parts=parts)
    top = sorted(day, key=lambda decision: -decision.answer["fraud_score"])[:k]
    assert sum(span.payments for span in spans) == len(day)
    assert spans[-1].precision_so_far == sum(d.payment.is_fraud for d in top) / len(top)
    assert all(span.precision_so_far <= span.possible_so_far + 1e-9 for span in spans)
