"""Pieces of the benchmark harness on small made data; the real base fold where the data lies."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.features.delayed import DelayedLabels
from training.benchmarks import fraud_handbook, online_retail
from training.benchmarks.handbook_protocol import Measures, Payments, fold, measure
from training.benchmarks.report import data_file, write_section

DAY_S = 86_400


def _real(relative: str) -> Path:
    try:
        return data_file(relative)
    except FileNotFoundError as error:
        pytest.skip(str(error))


@given(
    st.lists(
        st.tuples(st.integers(0, 60), st.integers(0, 2), st.booleans()), min_size=1, max_size=40
    ),
    st.integers(0, 20),
    st.integers(1, 30),
)
def test_delayed_windows_equal_a_brute_force_count(rows, delay, window):
    rows = sorted(rows, key=lambda row: row[0])
    time = np.array([row[0] for row in rows])
    entity = np.array([row[1] for row in rows])
    label = np.array([row[2] for row in rows])
    [(count, rate)] = DelayedLabels(time, entity, label).windows(delay, (window,))
    for i in range(len(rows)):
        inside = (entity == entity[i]) & (time <= time[i] - delay)
        inside &= time > time[i] - delay - window
        # With no delay, later rows of the same instant count too: a label has no arrival order.
        assert count[i] == inside.sum()
        assert rate[i] == pytest.approx(label[inside].mean() if inside.any() else 0.0)


def _payments(rows: list[tuple[int, int, bool]]) -> Payments:
    day, card, fraud = (np.array(values) for values in zip(*rows, strict=True))
    zeros = np.zeros(len(rows), dtype=np.int64)
    return Payments(day * DAY_S, card, zeros, zeros + 100, fraud.astype(bool))


def test_a_fold_leaves_out_cards_whose_fraud_was_reported_before_the_test_day():
    payments = _payments(
        [
            (0, 1, True),  # train fraud: card 1 is known
            (3, 2, False),
            (7, 3, True),  # known on day 15, not yet on day 14
            (14, 1, False),
            (14, 2, False),
            (14, 3, False),
            (15, 3, False),
            (16, 3, True),
            (20, 2, True),
            (21, 2, True),  # after the test week
        ]
    )
    train, test = fold(payments, 0)
    assert train.tolist() == [0, 1]
    assert test.tolist() == [4, 5, 8]


def test_a_table_section_is_replaced_and_its_neighbours_stay(tmp_path: Path):
    page = tmp_path / "page.md"
    write_section(page, "one", "first")
    write_section(page, "two", "second")
    write_section(page, "one", "newer")
    text = page.read_text()
    assert "newer" in text
    assert "second" in text
    assert "first" not in text
    assert text.index("newer") < text.index("second")


def test_ranking_measures_of_a_perfect_and_a_useless_order():
    truth = np.zeros((1, 20), dtype=bool)
    truth[0, :3] = True
    best = -np.arange(20.0)[None, :]
    assert online_retail.measure(best, truth) == (1.0, 1.0, 1.0)
    assert online_retail.measure(-best, truth) == (0.0, 0.0, 0.0)


def test_ease_recommends_what_is_bought_together():
    bought = np.tile(np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), (20, 1))
    weights = online_retail.ease(bought, ridge=1.0)
    assert weights[0, 1] > 0.5
    assert abs(weights[0, 2]) < 1e-9
    assert np.all(np.diag(weights) == 0)


def test_a_card_that_buys_an_article_twice_in_one_invoice_counts_once():
    customer = np.array([5] * 12 + [5, 6])
    item = np.zeros(14, dtype=np.int64)
    invoice = np.array([0] * 6 + [1] * 6 + [2, 3])
    age = np.array([60.0] * 6 + [1.0] * 6 + [-1.0, -2.0])
    baskets = online_retail.build(customer, item, invoice, age)
    assert baskets.counts.tolist() == [[2.0]]
    assert baskets.decayed[60.0][0, 0] == pytest.approx(np.exp(-1) + np.exp(-1 / 60))
    assert baskets.truth.tolist() == [[True]]


@pytest.mark.slow
def test_the_base_fold_of_the_handbook_is_reproduced_by_the_window_engine():
    payments = fraud_handbook.load(_real(fraud_handbook.DATA))
    # 40 days before the fold hold every window that a tree of depth 2 needs.
    keep = (payments.day >= 70) & (payments.day < 136)
    part = Payments(
        payments.seconds[keep],
        payments.card[keep],
        payments.terminal[keep],
        payments.amount_minor[keep],
        payments.is_fraud[keep],
    )
    bench = fraud_handbook.prepare(part)
    train, test = fold(part, 115)
    assert (len(train), int(part.is_fraud[train].sum())) == (67_240, 598)
    assert (len(test), int(part.is_fraud[test].sum())) == (58_264, 385)
    entry = fraud_handbook.ENTRIES[1]
    rows, scores = bench.scores(entry, 115)
    found = measure(part, rows, scores)
    assert isinstance(entry.base, Measures)
    assert found.auc == pytest.approx(entry.base.auc, abs=0.005)
    assert found.ap == pytest.approx(entry.base.ap, abs=0.005)
    assert found.cp == pytest.approx(entry.base.cp, abs=0.005)


@pytest.mark.parametrize("name", ["fraud_handbook", "personalization"])
def test_a_table_without_its_data_says_which_file_is_needed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("GATEHOUSE_DATA", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [name, "--out", str(tmp_path / "page.md")])
    with pytest.raises(SystemExit, match=r"tabular/.+ is not in the evaluation data"):
        import_module(f"training.benchmarks.{name}").main()
    assert not (tmp_path / "page.md").exists()


def test_item_neighbours_find_what_is_bought_again():
    bought = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    near = online_retail.neighbours(bought)
    assert np.diag(near).tolist() == pytest.approx([1.0, 1.0, 1.0])
    assert near[0].tolist() == pytest.approx([1.0, 1.0, 0.0])


def test_pruning_keeps_the_largest_weights_of_each_row():
    weights = np.array([[0.1, -0.5, 0.3], [0.2, 0.0, -0.1]])
    assert online_retail.strongest_of(weights, 1).tolist() == [[0, -0.5, 0], [0.2, 0, 0]]
    assert online_retail.strongest_of(weights, None) is weights
