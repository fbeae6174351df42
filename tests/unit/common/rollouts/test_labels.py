"""Labels: named without an id, and compared with what was decided."""

import pytest

from libs.common.rollouts import contradicts, label_ref


@pytest.mark.parametrize(
    ("decision", "label", "is_wrong"),
    [
        ("yes", "fraud", False),
        ("yes", "0", True),
        ("no", "TRUE", True),
        ("no", "legit", False),
        ("no", "perhaps", None),
        ("positive", "negative", True),
        ("positive", "Positive", False),
        ("positive", "true", False),
        ("positive", "false", True),
    ],
)
def test_a_label_contradicts_a_decision_or_says_nothing(decision, label, is_wrong):
    assert contradicts(decision, label) is is_wrong


def test_what_a_label_names_cannot_be_read_from_its_name():
    names = {
        label_ref("a", "transaction", "bc"),
        label_ref("ab", "transaction", "c"),
        label_ref("a", "prediction", "bc"),
    }
    assert len(names) == 3
    assert all(len(name) == 32 for name in names)
