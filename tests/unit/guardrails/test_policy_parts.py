"""The organisation's floor, languages, topics."""

import pytest

from services.guardrails.domain.document import Document
from services.guardrails.domain.floor import raised
from services.guardrails.domain.language import (
    LanguageValidator,
    TopicsValidator,
    language_of,
)
from services.guardrails.domain.operators import OperatorSpec
from services.guardrails.domain.params import ParamsError
from services.guardrails.domain.policy import DEFAULT_POLICY, Policy, PolicyBody, ValidatorRule
from services.guardrails.domain.verdict import Action


def policy(*rules: ValidatorRule) -> Policy:
    return Policy(id="own", version="3", body=PolicyBody(validators=rules))


def test_the_floor_makes_a_lax_policy_stricter_and_leaves_a_strict_one():
    lax = ValidatorRule(
        name="pii",
        action=Action.ALLOW,
        threshold=0.9,
        actions={"US_SSN": Action.FLAG},
        params={"entities": ["US_SSN"]},
        on_error="open",
        allow_list=("jane@example.com", "help@example.com"),
        operators={"DEFAULT": OperatorSpec(type="keep")},
    )
    floor = PolicyBody(
        validators=(
            ValidatorRule(name="pii", action=Action.MASK, allow_list=("help@example.com",)),
            ValidatorRule(name="secrets", action=Action.BLOCK),
        )
    )
    result = raised(policy(lax), floor)
    pii, secrets = result.body.validators
    assert (pii.action, pii.action_of("US_SSN"), pii.threshold) == (Action.MASK, Action.MASK, 0.4)
    assert (pii.on_error, pii.allow_list, pii.params) == ("closed", ("help@example.com",), {})
    assert pii.operator_of("US_SSN").type == "replace"
    assert secrets.action is Action.BLOCK
    assert result.digest != policy(lax).digest
    strict = policy(ValidatorRule(name="pii", action=Action.BLOCK, threshold=0.1))
    assert raised(strict, floor).body.validators[0].action is Action.BLOCK
    assert raised(strict, floor).body.validators[0].threshold == 0.1


def test_without_a_floor_a_policy_is_itself():
    assert raised(DEFAULT_POLICY, None) is DEFAULT_POLICY


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The weather is fine and we are on our way to the sea.", "en"),
        ("Das Wetter ist schön und wir sind auf dem Weg zum Meer.", "de"),
        ("Le temps est beau et nous sommes sur la route de la mer.", "fr"),
        ("El tiempo es bueno y estamos en el camino para la playa.", "es"),
        ("Il tempo è bello e non c'è più nessuno per la strada, ma come mai?", "it"),
        ("Het weer is mooi en wij zijn op de weg naar de zee.", "nl"),
        ("Погода хорошая, и мы едем к морю.", "ru"),
        ("今日はいい天気です。海へ行きましょう。", "ja"),
        ("ok 12345", ""),
        ("", ""),
    ],
)
def test_the_language_of_a_plain_text_is_known_and_a_short_one_is_not_guessed(text, language):
    assert language_of(text)[0] == language


def test_another_language_is_a_finding_only_where_the_policy_says_which_are_welcome():
    validator = LanguageValidator()
    params = validator.parse({"allowed": ["en"]})
    german = Document("Das ist nicht der Text, den wir auf Englisch haben.")
    assert validator.detect(german, params).scores["OTHER_LANGUAGE"] > 0.7
    assert validator.detect(Document("This is the text that we have."), params).scores == {}
    with pytest.raises(ParamsError):
        validator.parse({"allowed": ["klingon"]})


def test_a_topic_needs_several_of_its_words_in_any_disguise():
    validator = TopicsValidator()
    params = validator.parse({"topics": {"money": ["stock", "hot tip", "invest"]}, "needed": 2})
    one = validator.detect(Document("The stock is in the cellar, livestock too."), params)
    assert one.scores == {"TOPIC:money": 0.5}
    both = validator.detect(Document("A h\u043et t\u200bip: buy that stock"), params)
    assert both.scores == {"TOPIC:money": 1.0}
    with pytest.raises(ParamsError):
        validator.parse({"topics": {"money": ["..."]}})
